#include "model/inspect_report.h"

#include <algorithm>

#include <fmt/core.h>

#include "kernels/int_math.h"
#include "kernels/kernel_table.h"
#include "model/kv_pool.h"
#include "model/model_folder.h"
#include "model/model_limits.h"
#include "model/packed_folder.h"
#include "model/packed_header.h"
#include "model/packed_layout.h"
#include "model/packed_model.h"
#include "model/rope_frequencies.h"
#include "model/source_model.h"
#include "model/stage_forward.h"

namespace trireme {
namespace {

constexpr int32_t kMaxSequences = 1 << 20;
constexpr int32_t kMaxStepTokens = 1 << 20;

Result<InspectOptions> checked_options(InspectOptions options, const ModelConfig& config) {
  if (options.context_length == 0) options.context_length = default_context_length(config);
  if (options.context_length < 1 || options.context_length > kMaxPosition) {
    return Error{fmt::format("a context of {} tokens is impossible; use 1 to {}",
                             options.context_length, kMaxPosition),
                 "context_length"};
  }
  if (options.n_sequences < 1 || options.n_sequences > kMaxSequences) {
    return Error{
        fmt::format("{} sequences are impossible; use 1 to {}", options.n_sequences, kMaxSequences),
        "n_sequences"};
  }
  if (options.max_step_tokens < 1 || options.max_step_tokens > kMaxStepTokens) {
    return Error{fmt::format("{} tokens in a step are impossible; use 1 to {}",
                             options.max_step_tokens, kMaxStepTokens),
                 "max_step_tokens"};
  }
  return options;
}

RankReport report_rank(const InspectReport& report, const PackedLayout& packed,
                       const ShardPlan& shard, int world_rank) {
  const InspectOptions& options = report.options;
  RankReport out;
  out.world_rank = world_rank;
  out.shard = shard;
  out.weight_bytes = shard_weight_bytes(packed, shard, report.config.tie_embeddings);
  const auto n_blocks = static_cast<uint64_t>(options.n_sequences) *
                        static_cast<uint64_t>(div_ceil(options.context_length, kKvBlockTokens));
  out.kv_bytes = n_blocks * KvPool::block_bytes(report.config, shard, options.kv_dtype);
  const int32_t n_logit_rows = std::min(options.n_sequences, options.max_step_tokens);
  out.workspace_bytes = StageForward::workspace_bytes(report.config, shard, options.format,
                                                      options.max_step_tokens, n_logit_rows);
  return out;
}

std::vector<WeightSpec> weights_of(const ModelConfig& config) {
  return find_architecture(config.architecture)->weights(config);
}

void read_source(const std::filesystem::path& folder, InspectReport& report) {
  report.config = read_model_config(folder);
  const SourceModel source(folder);
  source.check(weights_of(report.config));
  report.n_source_tensors = source.n_tensors();
  report.source_bytes = source.size_bytes();
}

PackedEncodings read_packed(const std::filesystem::path& path, InspectReport& report) {
  const auto file = PackedModel::open(path);
  report.config = file->config();
  for (const WeightSpec& spec : weights_of(report.config)) {
    report.n_source_tensors += spec.hf_bias.empty() ? 1 : 2;
  }
  report.source_bytes = file->size_bytes();
  return file->encodings();
}

uint64_t count_parameters(const std::vector<WeightSpec>& specs) {
  uint64_t total = 0;
  for (const WeightSpec& spec : specs) {
    total += static_cast<uint64_t>(spec.n) * static_cast<uint64_t>(spec.k);
    if (!spec.hf_bias.empty()) total += static_cast<uint64_t>(spec.n);
  }
  return total;
}

}  // namespace

Result<InspectReport> inspect_model(const std::filesystem::path& model,
                                    const InspectOptions& options) {
  InspectReport report;
  report.model = model.string();
  PackedEncodings encodings = options.format;
  const ModelPlace place = model_place(model);
  if (place.packed.empty()) {
    read_source(model, report);
  } else {
    encodings = read_packed(place.packed, report);
  }
  report.cuts = model_cuts(report.config);
  report.n_parameters = count_parameters(weights_of(report.config));

  const Result<InspectOptions> checked = checked_options(options, report.config);
  if (!checked) return checked.error();
  report.options = *checked;
  report.options.format = encodings.usual.format;
  const PackedLayout packed = plan_packed_layout(report.config, encodings);
  report.packed_bytes = packed_file_bytes(report.config, encodings);
  // The first rank's plan says whether the layout fits; then all of them do.
  for (int rank = 0; rank == 0 || rank < options.layout.n_ranks(); ++rank) {
    const Result<ShardPlan> shard = make_shard_plan(report.config, options.layout, rank);
    if (!shard) return shard.error();
    report.ranks.push_back(report_rank(report, packed, *shard, rank));
  }
  return report;
}

}  // namespace trireme
