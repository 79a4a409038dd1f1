#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/control/rank_state.h"
#include "comm/control/step_plan.h"
#include "kernels/thread_pool.h"
#include "model/kv_pool.h"
#include "model/packed_encodings.h"
#include "model/stage_forward.h"
#include "worker/logit_processor.h"
#include "worker/sampler.h"
#include "worker/step_batch.h"
#include "worker/token_feed.h"

namespace trireme {

// What a rank computes with. `weights` and `comms` are the rank's own.
struct EngineParts {
  ModelConfig config;
  ShardPlan shard;
  uint64_t generation = 0;  // of the weights (WeightsFile)
  StageWeights weights;
  WeightFormat format = WeightFormat::kBF16;
  const KernelTable* kernels = nullptr;
  RankComms comms;
  int32_t n_threads = 1;
  std::vector<int> cpus;  // of the threads, as ThreadPool takes them
  int32_t context_length = 0;
  int32_t max_slots = 0;
  int32_t max_batch_tokens = 0;
  int32_t max_plans_in_flight = 1;
  int32_t kv_blocks = 0;
  DType kv_dtype = DType::kBF16;
  KvFile kv_file;  // the KV pool's memory, else its own
  bool fuse = true;
  // On the rank that samples, for plans that say `masked`: waits for the mask of a step's sequence.
  std::function<TokenMask(uint64_t step_id, uint64_t request_id)> wait_mask;
};

// One rank's model: takes plans, steps its stage, samples on the last stage's first rank. A step
// allocates nothing but what its answer holds (logits, traces).
class Engine {
 public:
  // Weights and what computes with them.
  struct Generation {
    uint64_t number = 0;
    StageWeights weights;
    std::unique_ptr<StageForward> forward;  // refers to `weights`
  };

  explicit Engine(EngineParts parts);

  // Other weights of the same shape and encodings, of this rank's shard. From any thread, while
  // the engine lives; a step may be under way.
  std::unique_ptr<Generation> make_generation(uint64_t number, StageWeights weights);
  // Plans may name it from now on.
  void add(std::unique_ptr<Generation> generation);
  // Plans name it no more. Null: there is none of that number.
  std::unique_ptr<Generation> remove(uint64_t number);

  // Collective over the group: every rank steps the same plans in the same order. `result` is
  // overwritten; returns whether there is anything in it for the coordinator.
  bool step(const StepPlan& plan, StepResult& result);

  const std::vector<std::unique_ptr<Generation>>& generations() const { return generations_; }
  const ModelConfig& config() const { return parts_.config; }
  const ShardPlan& shard() const { return parts_.shard; }
  uint64_t kv_bytes() const { return kv_.size_bytes(); }

  // Of a step, as an engine of these parts maps it.
  static uint64_t workspace_bytes(const EngineParts& parts);

  // Build, backend, instruction set, weight encodings and KV type: equal ids give equal bits.
  static std::string numerics_id(const KernelTable& kernels, const PackedEncodings& encodings,
                                 DType kv_dtype);
  // Of an engine like this one with such weights.
  std::string numerics_id(const PackedEncodings& encodings) const {
    return numerics_id(*parts_.kernels, encodings, parts_.kv_dtype);
  }

 private:
  // A row of the residual stream whose logits are wanted.
  struct HeadRow {
    int32_t row = 0;
    int32_t sequence = 0;  // of the plan
    int32_t input = 0;     // index in the sequence's input_ids
  };
  void collect_head_rows(const StepPlan& plan);
  void run_head(const StepPlan& plan, StepResult& result, TraceSink* trace);
  void answer_row(const StepPlan& step, const HeadRow& row, std::span<const float> logits,
                  float log_sum_exp, SequenceResult& result);
  void answer_hidden(const StepPlan& plan, StepResult& result);
  int32_t draw(uint64_t step_id, const SequencePlan& plan, int32_t output_index,
               std::span<const float> logits);

  StageForward& forward_of(uint64_t generation) const;
  EngineParts parts_;
  ThreadPool pool_;
  KvPool kv_;
  std::vector<std::unique_ptr<Generation>> generations_;  // at most kMaxGenerations
  std::shared_ptr<StageWorkspace> workspace_;             // of all of them
  StageForward* forward_ = nullptr;                       // of the step under way
  StepBatch batch_;
  TokenFeed feed_;
  LogitProcessor processor_;
  Sampler sampler_;
  std::vector<HeadRow> head_rows_;  // [<= max_batch_tokens]
  std::vector<int32_t> row_ids_;    // [kMaxHeadRows]
  std::vector<float> log_sum_exp_;  // [kMaxHeadRows]
  std::vector<int32_t> sampled_;    // [<= max_slots]
};

}  // namespace trireme
