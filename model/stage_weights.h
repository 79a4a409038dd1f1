#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "kernels/weight.h"
#include "model/partition.h"

namespace trireme {

class PackedModel;

// One decoder layer's weights as one rank holds them. Norm weights and row biases are float32 and
// whole on every rank. Column-parallel: one block per attention leaf (q), per KV head (k, v), per
// MLP leaf (gate, up). Row-parallel (o, down): one block per leaf.
struct LayerWeights {
  const float* input_norm = nullptr;  // [hidden_size]
  const float* post_norm = nullptr;   // [hidden_size], before the MLP
  const float* q_norm = nullptr;      // [head_dim] or null
  const float* k_norm = nullptr;      // [head_dim] or null
  Weight q;                           // out [n_heads_local * head_dim], bias in the blocks
  Weight k;                           // out [n_kv_heads_local * head_dim]
  Weight v;                           // out [n_kv_heads_local * head_dim]
  Weight o;                           // leaves: in [n_heads_local * head_dim], out [hidden_size]
  const float* o_bias = nullptr;      // [hidden_size] or null; added once, after the tree
  Weight gate;                        // out [mlp_columns_local]
  Weight up;
  Weight down;                       // leaves: in [mlp_columns_local], out [hidden_size]
  const float* down_bias = nullptr;  // [hidden_size] or null
};

// A stage's weights: views into the mapped packed file, alive as long as this object.
// Moved, never copied: `blocks` of the weights point into block_storage.
struct StageWeights {
  StageWeights() = default;
  StageWeights(StageWeights&&) = default;
  StageWeights& operator=(StageWeights&&) = default;
  StageWeights(const StageWeights&) = delete;
  StageWeights& operator=(const StageWeights&) = delete;

  std::shared_ptr<const PackedModel> file;
  std::vector<std::vector<WeightBlock>> block_storage;
  std::vector<LayerWeights> layers;  // of ShardPlan::layers
  Weight embedding;  // first stage: one block per vocabulary chunk, n = rows, k = hidden
  Weight lm_head;    // last stage: one block per vocabulary chunk; tied: same bytes
  const float* final_norm = nullptr;  // last stage: [hidden_size]
  uint64_t size_bytes = 0;            // this rank's share of the file
};

// Maps the file and points at this rank's blocks; touches every page of the share once so that the
// first step does not wait for the disk, telling `on_progress(done, total)` as it goes.
StageWeights map_stage_weights(std::shared_ptr<const PackedModel> file, const ShardPlan& shard,
                               const std::function<void(uint64_t, uint64_t)>& on_progress);

}  // namespace trireme
