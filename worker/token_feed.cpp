#include "worker/token_feed.h"

#include <algorithm>

namespace trireme {
namespace {

bool names_slot(const SequencePlan& s) {
  return std::find(s.input_ids.begin(), s.input_ids.end(), kTokenFromSlot) != s.input_ids.end();
}

}  // namespace

TokenFeed::TokenFeed(const ShardPlan& shard, RankComms& comms, int32_t max_slots,
                     int32_t max_plans_in_flight)
    : shard_(shard),
      comms_(comms),
      max_plans_in_flight_(static_cast<uint64_t>(max_plans_in_flight)),
      ring_(static_cast<size_t>(max_plans_in_flight) + 1),
      message_(static_cast<size_t>(max_slots)),
      gathered_(static_cast<size_t>(max_slots) * static_cast<size_t>(shard.layout.tp)) {
  TRIREME_CHECK(max_plans_in_flight >= 1);
  for (Pending& pending : ring_) pending.slots.reserve(static_cast<size_t>(max_slots));
}

bool TokenFeed::needs(const StepPlan& plan, const Pending& pending) const {
  return std::any_of(plan.sequences.begin(), plan.sequences.end(), [&](const SequencePlan& s) {
    return names_slot(s) &&
           std::find(pending.slots.begin(), pending.slots.end(), s.slot) != pending.slots.end();
  });
}

void TokenFeed::receive_oldest(StepBatch& batch) {
  const Pending& pending = ring_[head_];
  const auto n = static_cast<int64_t>(pending.slots.size());
  comms_.pp->recv({}, make_tensor(message_.data(), DType::kI32, {n}), shard_.layout.pp - 1);
  for (size_t i = 0; i < pending.slots.size(); ++i) {
    batch.set_last_token(pending.slots[i], message_[i]);
  }
  head_ = (head_ + 1) % ring_.size();
  --n_pending_;
}

void TokenFeed::before_step(const StepPlan& plan, StepBatch& batch) {
  size_t n_take = 0;
  for (size_t i = 0; i < n_pending_; ++i) {
    const Pending& pending = ring_[(head_ + i) % ring_.size()];
    if (pending.step_id + max_plans_in_flight_ <= plan.step_id || needs(plan, pending)) {
      n_take = i + 1;
    }
  }
  for (size_t i = 0; i < n_take; ++i) receive_oldest(batch);
  for (const SequencePlan& s : plan.sequences) {
    TRIREME_CHECK_MSG(!names_slot(s) || batch.last_token(s.slot) >= 0,
                      "a plan names a token by slot that no plan has fed");
  }
}

void TokenFeed::after_step(const StepPlan& plan, const std::vector<int32_t>& sampled,
                           StepBatch& batch) {
  if (!plan.feed_samples) return;
  Pending& pending = ring_[(head_ + n_pending_) % ring_.size()];
  pending.step_id = plan.step_id;
  pending.slots.clear();
  for (const SequencePlan& s : plan.sequences) {
    if (s.sample) pending.slots.push_back(s.slot);
  }
  const auto n = static_cast<int64_t>(pending.slots.size());
  if (n == 0) return;
  if (shard_.is_last_stage()) {
    if (shard_.tp_rank == 0) {
      TRIREME_CHECK(sampled.size() == pending.slots.size());
      std::copy(sampled.begin(), sampled.end(), message_.begin());
    }
    if (shard_.layout.tp > 1) {
      const int64_t tp = shard_.layout.tp;
      comms_.tp->all_gather({}, make_tensor(gathered_.data(), DType::kI32, {tp, n}),
                            make_tensor(message_.data(), DType::kI32, {n}));
      std::copy_n(gathered_.begin(), n, message_.begin());  // tp_rank 0's
    }
    if (shard_.is_first_stage()) {
      for (size_t i = 0; i < pending.slots.size(); ++i) {
        batch.set_last_token(pending.slots[i], message_[i]);
      }
    } else {
      comms_.pp->send({}, make_tensor(message_.data(), DType::kI32, {n}), 0);
    }
  } else if (shard_.is_first_stage()) {
    TRIREME_CHECK(n_pending_ < ring_.size());
    ++n_pending_;
  }
}

}  // namespace trireme
