#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/control/step_plan.h"

namespace trireme {

// Changes logits by the rules of the sequence in each slot (LogitRules), and keeps what the rules
// need to know of its tokens. Lives on the rank that samples. Allocates when a sequence with rules
// begins, not while it goes on; for sequences without any it does nothing.
class LogitProcessor {
 public:
  LogitProcessor(int32_t max_slots, int32_t vocab_size, int32_t context_length);

  // Before the plan of a sequence is answered.
  void begin(const SequencePlan& plan);

  // What token `output_index` is to be drawn from: `logits` [vocab_size] or, valid until the next
  // call, what the slot's rules make of them. Where bans leave nothing of what is allowed, they do
  // not hold.
  std::span<const float> apply(int32_t slot, int32_t output_index, std::span<const float> logits);

  // The token was drawn.
  void add(int32_t slot, int32_t token_id);

 private:
  struct Slot {
    std::shared_ptr<const LogitRules> rules;  // null: none
    std::vector<TokenCount> seen;             // with penalties
    std::vector<int32_t> tail;                // of the output, oldest first; [<= n_tail]
    size_t n_tail = 0;                        // how much of it is of use
  };
  void check_ids(const SlotRules& rules) const;
  void mask(const LogitRules& rules, std::span<const float> logits);
  void ban(const Slot& slot, int32_t output_index);
  void penalise(const Slot& slot);
  void keep_some(const LogitRules& rules, std::span<const float> logits);
  float& at(int32_t token_id) { return adjusted_[static_cast<size_t>(token_id)]; }

  std::vector<Slot> slots_;      // [max_slots]
  std::vector<float> adjusted_;  // [vocab_size]
  size_t max_seen_;
};

}  // namespace trireme
