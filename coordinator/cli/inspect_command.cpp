#include <fmt/format.h>

#include "coordinator/cli/commands.h"
#include "coordinator/cli/say.h"
#include "kernels/result.h"
#include "model/inspect_report.h"
#include "model/kv_pool.h"
#include "model/model_folder.h"
#include "model/packed_folder.h"
#include "model/packed_model.h"

namespace trireme {

int inspect_command(const InspectCommandOptions& options) {
  const std::filesystem::path model = resolve_model(options.model);
  const std::filesystem::path packed = model_place(model).packed;
  InspectOptions inspect;
  inspect.layout = options.layout;
  inspect.format = packed.empty() ? options.format : PackedModel::open(packed)->format();
  inspect.kv_dtype = options.kv_dtype.value_or(KvPool::default_dtype(inspect.format));
  inspect.context_length = options.context_length;
  inspect.n_sequences = options.n_sequences;
  const Result<InspectReport> report = inspect_model(model, inspect);
  if (!report) throw EnvironmentError(report.error().message);
  if (options.graph_tokens > 0) {
    say(stdout, "{}",
        options.json ? graph_json(*report, options.graph_tokens)
                     : graph_text(*report, options.graph_tokens));
    return 0;
  }
  say(stdout, "{}", options.json ? inspect_json(*report) : inspect_text(*report));
  return 0;
}

}  // namespace trireme
