#include "worker/logit_processor.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"

namespace trireme {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

// Whether the output ends with all of the word but its last token.
bool is_begun(const std::vector<int32_t>& word, const std::vector<int32_t>& tail) {
  const auto n = static_cast<std::ptrdiff_t>(word.size()) - 1;
  if (n > static_cast<std::ptrdiff_t>(tail.size())) return false;
  return std::equal(word.begin(), word.end() - 1, tail.end() - n);
}

}  // namespace

LogitProcessor::LogitProcessor(int32_t max_slots, int32_t vocab_size, int32_t context_length)
    : slots_(static_cast<size_t>(max_slots)),
      adjusted_(static_cast<size_t>(vocab_size)),
      max_seen_(static_cast<size_t>(std::min(vocab_size, context_length))) {}

void LogitProcessor::begin(const SequencePlan& plan) {
  if (!plan.reset_slot) return;
  Slot& slot = slots_[static_cast<size_t>(plan.slot)];
  slot.rules.reset();
  if (plan.slot_rules == nullptr) return;
  const SlotRules& given = *plan.slot_rules;
  check_ids(given);
  slot.rules = given.rules;
  if (given.rules->has_penalties()) slot.seen.reserve(max_seen_);
  slot.seen = given.seen;
  slot.n_tail = given.rules->n_tail();
  slot.tail.reserve(slot.n_tail);
  slot.tail = given.output_tail;
}

// Ids that the vocabulary lacks are a bug of the coordinator.
void LogitProcessor::check_ids(const SlotRules& given) const {
  const auto vocab = static_cast<int32_t>(adjusted_.size());
  const auto check = [&](int32_t id) { TRIREME_CHECK(id >= 0 && id < vocab); };
  for (const int32_t id : given.rules->end_token_ids) check(id);
  for (const TokenBias& bias : given.rules->biases) check(bias.token_id);
  for (const int32_t id : given.rules->allowed_token_ids) check(id);
  for (const auto& word : given.rules->bad_words) check(word.back());
  for (const TokenCount& seen : given.seen) check(seen.token_id);
  TRIREME_CHECK(given.seen.size() <= max_seen_);
  TRIREME_CHECK(given.output_tail.size() <= given.rules->n_tail());
}

std::span<const float> LogitProcessor::apply(int32_t slot_index, int32_t output_index,
                                             std::span<const float> logits) {
  const Slot& slot = slots_[static_cast<size_t>(slot_index)];
  if (slot.rules == nullptr) return logits;
  TRIREME_CHECK(logits.size() == adjusted_.size());
  mask(*slot.rules, logits);
  ban(slot, output_index);
  for (const TokenBias& bias : slot.rules->biases) at(bias.token_id) += bias.bias;
  penalise(slot);
  keep_some(*slot.rules, logits);
  return adjusted_;
}

void LogitProcessor::mask(const LogitRules& rules, std::span<const float> logits) {
  if (rules.allowed_token_ids.empty()) {
    std::copy(logits.begin(), logits.end(), adjusted_.begin());
    return;
  }
  std::fill(adjusted_.begin(), adjusted_.end(), kBanned);
  for (const int32_t id : rules.allowed_token_ids) at(id) = logits[static_cast<size_t>(id)];
}

void LogitProcessor::ban(const Slot& slot, int32_t output_index) {
  for (const std::vector<int32_t>& word : slot.rules->bad_words) {
    if (is_begun(word, slot.tail)) at(word.back()) = kBanned;
  }
  if (output_index >= slot.rules->min_tokens) return;
  for (const int32_t id : slot.rules->end_token_ids) at(id) = kBanned;
}

void LogitProcessor::penalise(const Slot& slot) {
  const LogitRules& rules = *slot.rules;
  for (const TokenCount& seen : slot.seen) {
    float& logit = at(seen.token_id);
    logit = logit > 0.0F ? logit / rules.repetition_penalty : logit * rules.repetition_penalty;
    if (seen.n_output == 0) continue;
    logit -= rules.frequency_penalty * static_cast<float>(seen.n_output);
    logit -= rules.presence_penalty;
  }
}

void LogitProcessor::keep_some(const LogitRules& rules, std::span<const float> logits) {
  if (rules.allowed_token_ids.empty()) return;
  for (const int32_t id : rules.allowed_token_ids) {
    if (at(id) > kBanned) return;
  }
  mask(rules, logits);
}

void LogitProcessor::add(int32_t slot_index, int32_t token_id) {
  Slot& slot = slots_[static_cast<size_t>(slot_index)];
  if (slot.rules == nullptr) return;
  if (slot.n_tail > 0) {
    if (slot.tail.size() == slot.n_tail) slot.tail.erase(slot.tail.begin());
    slot.tail.push_back(token_id);
  }
  if (!slot.rules->has_penalties()) return;
  const auto found =
      std::find_if(slot.seen.begin(), slot.seen.end(),
                   [token_id](const TokenCount& seen) { return seen.token_id == token_id; });
  if (found != slot.seen.end()) {
    ++found->n_output;
  } else {
    TRIREME_CHECK(slot.seen.size() < max_seen_);
    slot.seen.push_back({.token_id = token_id, .n_output = 1});
  }
}

}  // namespace trireme
