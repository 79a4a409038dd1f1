#pragma once

#include <cstdint>
#include <string>

#include "comm/layout.h"
#include "kernels/leaf_tree.h"
#include "kernels/result.h"
#include "model/model_config.h"

namespace trireme {

constexpr int kMlpUnit = 32;       // columns of the MLP that a leaf boundary falls between
constexpr int kVocabChunk = 1024;  // vocabulary columns that one rank holds together

// [begin, end)
struct IndexRange {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t size() const { return end - begin; }
  bool contains(int32_t i) const { return i >= begin && i < end; }
  bool operator==(const IndexRange&) const = default;
};

// How a projection of n_units units is cut into leaves: min(16, n_units) of them, leaf i covering
// units floor(i * n_units / n_leaves) .. floor((i + 1) * n_units / n_leaves).
struct LeafCut {
  int32_t n_units = 0;
  int32_t n_leaves = 0;
  IndexRange units(int leaf) const;
};
LeafCut make_leaf_cut(int32_t n_units);

// The cuts of one model, the same for every layout.
struct ModelCuts {
  LeafCut attention;  // units are query heads
  LeafCut mlp;        // units are kMlpUnit columns of intermediate_size, the last maybe narrower
  int32_t n_vocab_chunks = 0;
  int32_t max_tp() const;  // the smaller leaf count
};
ModelCuts model_cuts(const ModelConfig& config);

// MLP columns of one leaf.
IndexRange mlp_columns(const ModelConfig& config, const ModelCuts& cuts, int leaf);
// KV heads that the query heads [heads.begin, heads.end) read.
IndexRange kv_heads_of(const ModelConfig& config, IndexRange heads);

// What one rank owns. All ranges are global indices.
struct ShardPlan {
  Layout layout;
  int32_t tp_rank = 0;
  int32_t pp_rank = 0;
  IndexRange layers;
  IndexRange attention_leaves;
  IndexRange heads;     // query heads
  IndexRange kv_heads;  // every KV head that one of `heads` reads
  IndexRange mlp_leaves;
  IndexRange mlp_columns;
  IndexRange vocab_chunks;  // embedding rows (first stage) and lm_head columns (last stage)
  IndexRange vocab;         // the columns of vocab_chunks, clipped to vocab_size
  TreePlan attention_tree;  // of the whole tensor-parallel group
  TreePlan mlp_tree;
  bool is_first_stage() const { return pp_rank == 0; }
  bool is_last_stage() const { return pp_rank == layout.pp - 1; }
};

// The layers of a stage, so that the slowest stage is as quick as can be. Work is counted in
// weights that a token meets; lm_head counts half, since only tokens that are answered meet it.
IndexRange stage_layers(const ModelConfig& config, int32_t n_stages, int32_t stage);

// Error when the layout does not fit the model: names both numbers and the largest possible.
Result<ShardPlan> make_shard_plan(const ModelConfig& config, Layout layout, int world_rank);

}  // namespace trireme
