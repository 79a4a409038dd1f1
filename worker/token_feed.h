#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "comm/control/step_plan.h"
#include "model/partition.h"
#include "worker/step_batch.h"

namespace trireme {

// Carries sampled tokens from the last stage to every rank of the first, for plans that name tokens
// by slot. The first stage takes the tokens of a plan when a later plan needs them, and at the
// latest max_plans_in_flight plans later, so the channel never holds more than that many messages.
class TokenFeed {
 public:
  TokenFeed(const ShardPlan& shard, RankComms& comms, int32_t max_slots,
            int32_t max_plans_in_flight);

  // Before a plan's tokens are laid out, on every rank.
  void before_step(const StepPlan& plan, StepBatch& batch);
  // After a plan was sampled, on every rank; `sampled` [n sequences that sample] is read on the
  // last stage's tp_rank 0 only.
  void after_step(const StepPlan& plan, const std::vector<int32_t>& sampled, StepBatch& batch);

 private:
  struct Pending {
    uint64_t step_id = 0;
    std::vector<int32_t> slots;  // that the plan sampled, in plan order
  };
  bool needs(const StepPlan& plan, const Pending& pending) const;
  void receive_oldest(StepBatch& batch);

  const ShardPlan& shard_;
  RankComms& comms_;
  uint64_t max_plans_in_flight_;
  std::vector<Pending> ring_;  // [max_plans_in_flight + 1]
  size_t head_ = 0;            // oldest pending
  size_t n_pending_ = 0;
  std::vector<int32_t> message_;   // [max_slots]
  std::vector<int32_t> gathered_;  // [tp, max_slots]
};

}  // namespace trireme
