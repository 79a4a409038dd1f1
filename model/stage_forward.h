#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "kernels/kernel_table.h"
#include "model/kv_pool.h"
#include "model/partition.h"
#include "model/rope_frequencies.h"
#include "model/stage_graph.h"
#include "model/stage_weights.h"
#include "model/trace.h"

namespace trireme {

struct StageWorkspace;

// One step's tokens, flat. Arrays are the engine's, filled anew for each step.
struct StepTokens {
  int32_t n_tokens = 0;
  const int32_t* input_ids = nullptr;     // [n_tokens]; read on the first stage only
  const int32_t* positions = nullptr;     // [n_tokens]
  const int32_t* slots = nullptr;         // [n_tokens], row of block_tables
  const int32_t* slot_mapping = nullptr;  // [n_tokens], where each token's K and V go
  const int32_t* block_tables = nullptr;  // [max_slots, block_table_stride]
  int32_t block_table_stride = 0;
};

// Everything a stage computes with. The referenced objects outlive the forward pass.
struct StageParts {
  const ModelConfig* config = nullptr;
  const ShardPlan* shard = nullptr;
  const StageWeights* weights = nullptr;
  const KernelTable* kernels = nullptr;
  const KvPool* kv = nullptr;
  Communicator* tp = nullptr;
  Communicator* pp = nullptr;
  Stream stream;
  WeightFormat format = WeightFormat::kBF16;
  int32_t context_length = 0;
  int32_t max_tokens = 0;      // in one step
  int32_t max_logit_rows = 0;  // in one call of logits()
  bool fuse = true;            // the same bits either way
  // Of another one of the same shape that never runs at the same time; null: its own.
  std::shared_ptr<StageWorkspace> workspace;
};

// The layers of one pipeline stage on one rank: receives the residual stream (or embeds), runs its
// layers, and sends on (or keeps it for logits()). Allocates everything at construction.
class StageForward {
 public:
  explicit StageForward(const StageParts& parts);

  // Collective over the group. After it, on the last stage, the residual stream is kept until the
  // next call.
  void run(const StepTokens& step, TraceSink* trace);

  // Last stage only, collective over its tensor-parallel ranks: logits of token rows `rows`
  // [n_rows <= max_logit_rows]. Returns [n_rows, vocab_size] float32 on tp_rank 0, an empty tensor
  // elsewhere; valid until the next call.
  Tensor logits(const int32_t* rows, int32_t n_rows, TraceSink* trace);

  // Last stage only: token rows `rows` [n_rows <= max_logit_rows] after the final norm, in float32,
  // which every one of its ranks has. [n_rows, hidden_size]; valid until the next call.
  Tensor final_hidden(const int32_t* rows, int32_t n_rows);

  Stream stream() const { return parts_.stream; }
  const std::shared_ptr<StageWorkspace>& workspace() const { return workspace_; }

  // Bytes of workspace a rank needs, for plans and reports.
  static uint64_t workspace_bytes(const ModelConfig& config, const ShardPlan& shard,
                                  WeightFormat format, int32_t max_tokens, int32_t max_logit_rows);

 private:
  void embed(const StepTokens& step);
  void execute(const StageOp& op, const StepTokens& step);
  void attend(const StageOp& op, const StepTokens& step, Tensor out);
  void store_kv(const StageOp& op, const StepTokens& step, bool with_rope);
  void reduce_leaves(const GemmInput& x, const Weight& weight, const TreePlan& tree,
                     int32_t first_leaf);
  Tensor pick_rows(const int32_t* rows, int32_t n_rows);
  void gather_logits(Tensor local, int32_t n_rows);
  void trace_op(const StageOp& op, TraceSink& trace) const;
  void trace_heads(TraceSink& trace, int32_t layer, TraceOp op, Tensor x, IndexRange heads) const;

  const LayerWeights& weights_of(int32_t local_layer) const;
  // Of the step's tokens.
  Tensor query() const;
  Tensor key() const;
  Tensor value() const;
  Tensor as_heads(Tensor x) const;
  Tensor reduced() const;  // what reduce_leaves() left

  StageParts parts_;
  RopeFrequencies rope_;
  TreePlan embed_tree_;  // one leaf per tensor-parallel rank
  std::vector<StageOp> plain_graph_;
  std::vector<StageOp> graph_;
  std::vector<std::vector<WeightBlock>> qkv_blocks_;  // of the layers
  std::vector<Weight> qkv_;                           // views into qkv_blocks_
  std::shared_ptr<StageWorkspace> workspace_;
  int32_t n_tokens_ = 0;
};

}  // namespace trireme
