#include "model/partition.h"

#include <algorithm>

#include <fmt/core.h>

#include "kernels/check.h"
#include "kernels/int_math.h"

namespace trireme {
namespace {

// floor(part * n / n_parts), in 64 bits.
int32_t cut_point(int64_t n, int64_t part, int64_t n_parts) {
  return static_cast<int32_t>(part * n / n_parts);
}

IndexRange cut_range(int64_t n, int64_t part, int64_t n_parts) {
  return {cut_point(n, part, n_parts), cut_point(n, part + 1, n_parts)};
}

}  // namespace

IndexRange LeafCut::units(int leaf) const {
  TRIREME_CHECK(leaf >= 0 && leaf < n_leaves);
  return cut_range(n_units, leaf, n_leaves);
}

LeafCut make_leaf_cut(int32_t n_units) {
  TRIREME_CHECK(n_units >= 1);
  return {n_units, std::min<int32_t>(kMaxLeaves, n_units)};
}

int32_t ModelCuts::max_tp() const { return std::min(attention.n_leaves, mlp.n_leaves); }

ModelCuts model_cuts(const ModelConfig& config) {
  return {make_leaf_cut(config.n_heads),
          make_leaf_cut(div_ceil(config.intermediate_size, kMlpUnit)),
          div_ceil(config.vocab_size, kVocabChunk)};
}

IndexRange mlp_columns(const ModelConfig& config, const ModelCuts& cuts, int leaf) {
  const IndexRange units = cuts.mlp.units(leaf);
  return {units.begin * kMlpUnit, std::min(units.end * kMlpUnit, config.intermediate_size)};
}

IndexRange kv_heads_of(const ModelConfig& config, IndexRange heads) {
  if (heads.size() <= 0) return {};
  TRIREME_CHECK(heads.begin >= 0 && heads.end <= config.n_heads);
  const int32_t group = div_exact(config.n_heads, config.n_kv_heads);
  return {heads.begin / group, (heads.end - 1) / group + 1};
}

IndexRange stage_layers(const ModelConfig& config, int32_t n_stages, int32_t stage) {
  TRIREME_CHECK(n_stages >= 1 && n_stages <= config.n_layers);
  TRIREME_CHECK(stage >= 0 && stage < n_stages);
  if (n_stages == 1) return {0, config.n_layers};
  const int64_t hidden = config.hidden_size;
  const int64_t heads = 2LL * (config.n_heads + config.n_kv_heads) * config.head_dim;
  const int64_t layer_work = hidden * (heads + 3LL * config.intermediate_size);
  const int64_t head_work = hidden * config.vocab_size / 2;
  const auto slowest = [&](int64_t n_last) {
    const int64_t n_other = div_ceil(config.n_layers - n_last, int64_t{n_stages} - 1);
    return std::max(n_other * layer_work, n_last * layer_work + head_work);
  };
  int32_t n_last = 1;
  for (int32_t n = 2; n <= config.n_layers - (n_stages - 1); ++n) {
    if (slowest(n) <= slowest(n_last)) n_last = n;
  }
  const int32_t n_before = config.n_layers - n_last;
  if (stage == n_stages - 1) return {n_before, config.n_layers};
  return cut_range(n_before, stage, n_stages - 1);
}

Result<ShardPlan> make_shard_plan(const ModelConfig& config, Layout layout, int world_rank) {
  const ModelCuts cuts = model_cuts(config);
  if (layout.tp < 1 || layout.tp > cuts.max_tp()) {
    return Error{
        fmt::format("tensor parallelism of {} does not fit this model: it has {} attention "
                    "leaves and {} MLP leaves; use --tp 1 to {}",
                    layout.tp, cuts.attention.n_leaves, cuts.mlp.n_leaves, cuts.max_tp()),
        "tp"};
  }
  if (layout.pp < 1 || layout.pp > config.n_layers) {
    return Error{
        fmt::format("pipeline parallelism of {} does not fit this model: it has {} layers; "
                    "use --pp 1 to {}",
                    layout.pp, config.n_layers, config.n_layers),
        "pp"};
  }
  TRIREME_CHECK(world_rank >= 0 && world_rank < layout.n_ranks());

  ShardPlan plan;
  plan.layout = layout;
  plan.tp_rank = layout.tp_rank(world_rank);
  plan.pp_rank = layout.pp_rank(world_rank);
  plan.layers = stage_layers(config, layout.pp, plan.pp_rank);
  // Leaves are spread as make_tree_plan() spreads them.
  plan.attention_leaves = {first_leaf(cuts.attention.n_leaves, plan.tp_rank, layout.tp),
                           first_leaf(cuts.attention.n_leaves, plan.tp_rank + 1, layout.tp)};
  plan.heads = {cuts.attention.units(plan.attention_leaves.begin).begin,
                cuts.attention.units(plan.attention_leaves.end - 1).end};
  plan.kv_heads = kv_heads_of(config, plan.heads);
  plan.mlp_leaves = {first_leaf(cuts.mlp.n_leaves, plan.tp_rank, layout.tp),
                     first_leaf(cuts.mlp.n_leaves, plan.tp_rank + 1, layout.tp)};
  plan.mlp_columns = {mlp_columns(config, cuts, plan.mlp_leaves.begin).begin,
                      mlp_columns(config, cuts, plan.mlp_leaves.end - 1).end};
  plan.vocab_chunks = cut_range(cuts.n_vocab_chunks, plan.tp_rank, layout.tp);
  plan.vocab = {std::min(plan.vocab_chunks.begin * kVocabChunk, config.vocab_size),
                std::min(plan.vocab_chunks.end * kVocabChunk, config.vocab_size)};
  plan.attention_tree = make_tree_plan(cuts.attention.n_leaves, layout.tp);
  plan.mlp_tree = make_tree_plan(cuts.mlp.n_leaves, layout.tp);
  return plan;
}

}  // namespace trireme
