#include <chrono>
#include <filesystem>

#include "coordinator/cli/commands.h"
#include "coordinator/cli/progress.h"
#include "coordinator/cli/say.h"
#include "model/model_folder.h"
#include "model/packed_folder.h"
#include "model/source_model.h"
#include "model/weight_format.h"

namespace trireme {

int pack_command(const PackOptions& options) {
  const std::filesystem::path folder = resolve_model(options.model);
  const uint64_t source_bytes = SourceModel(folder).size_bytes();
  const auto begin = std::chrono::steady_clock::now();
  Progress progress("packing");
  const std::filesystem::path file =
      pack_model_to(folder, options.out, options.format,
                    [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  progress.complete();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  const uint64_t bytes = std::filesystem::file_size(file);
  say(stdout, "packed {} as {}: {} of {} ({:.2f}x) in {:.1f} s: {}\n", options.model,
      weight_format_name(options.format), human_bytes(bytes), human_bytes(source_bytes),
      static_cast<double>(bytes) / static_cast<double>(source_bytes), seconds.count(), options.out);
  return 0;
}

}  // namespace trireme
