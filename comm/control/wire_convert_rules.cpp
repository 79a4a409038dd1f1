#include <cmath>
#include <cstdint>
#include <utility>

#include "comm/control/wire_convert.h"

namespace trireme::detail {
namespace {

const char* bad_words_from_wire(const wire::SlotRules& in, LogitRules& out) {
  int n_ids = 0;
  for (const int32_t size : in.bad_word_sizes()) {
    if (size < 1 || size > in.bad_word_ids_size() - n_ids) return "bad_word_sizes";
    const auto first = in.bad_word_ids().begin() + n_ids;
    out.bad_words.emplace_back(first, first + size);
    n_ids += size;
  }
  return n_ids == in.bad_word_ids_size() ? nullptr : "bad_word_ids";
}

}  // namespace

void to_wire(const SlotRules& in, wire::SlotRules& out) {
  const LogitRules& rules = *in.rules;
  out.set_presence_penalty(rules.presence_penalty);
  out.set_frequency_penalty(rules.frequency_penalty);
  out.set_repetition_penalty(rules.repetition_penalty);
  out.set_min_tokens(rules.min_tokens);
  out.mutable_end_token_ids()->Add(rules.end_token_ids.begin(), rules.end_token_ids.end());
  for (const TokenBias& bias : rules.biases) {
    out.add_bias_ids(bias.token_id);
    out.add_biases(bias.bias);
  }
  out.mutable_allowed_token_ids()->Add(rules.allowed_token_ids.begin(),
                                       rules.allowed_token_ids.end());
  for (const std::vector<int32_t>& word : rules.bad_words) {
    out.add_bad_word_sizes(static_cast<int32_t>(word.size()));
    out.mutable_bad_word_ids()->Add(word.begin(), word.end());
  }
  for (const TokenCount& seen : in.seen) {
    out.add_seen_ids(seen.token_id);
    out.add_seen_counts(seen.n_output);
  }
  out.mutable_output_tail()->Add(in.output_tail.begin(), in.output_tail.end());
}

const char* from_wire(const wire::SlotRules& in, std::shared_ptr<const SlotRules>& out) {
  const auto is_penalty = [](float value) { return std::isfinite(value); };
  if (!is_penalty(in.presence_penalty())) return "presence_penalty";
  if (!is_penalty(in.frequency_penalty())) return "frequency_penalty";
  if (!is_penalty(in.repetition_penalty()) || in.repetition_penalty() <= 0)
    return "repetition_penalty";
  if (in.min_tokens() < 0) return "min_tokens";
  if (!all_at_least(in.end_token_ids(), 0)) return "end_token_ids";
  if (!all_at_least(in.bias_ids(), 0)) return "bias_ids";
  if (in.biases_size() != in.bias_ids_size()) return "biases";
  if (!all_at_least(in.allowed_token_ids(), 0)) return "allowed_token_ids";
  if (!all_at_least(in.bad_word_ids(), 0)) return "bad_word_ids";
  if (!all_at_least(in.seen_ids(), 0)) return "seen_ids";
  if (in.seen_counts_size() != in.seen_ids_size() || !all_at_least(in.seen_counts(), 0))
    return "seen_counts";
  if (!all_at_least(in.output_tail(), 0)) return "output_tail";

  auto rules = std::make_shared<LogitRules>();
  if (const char* wrong = bad_words_from_wire(in, *rules)) return wrong;
  rules->presence_penalty = in.presence_penalty();
  rules->frequency_penalty = in.frequency_penalty();
  rules->repetition_penalty = in.repetition_penalty();
  rules->min_tokens = in.min_tokens();
  rules->end_token_ids.assign(in.end_token_ids().begin(), in.end_token_ids().end());
  for (int i = 0; i < in.bias_ids_size(); ++i)
    rules->biases.push_back({.token_id = in.bias_ids(i), .bias = in.biases(i)});
  rules->allowed_token_ids.assign(in.allowed_token_ids().begin(), in.allowed_token_ids().end());
  SlotRules slot{.rules = std::move(rules), .seen = {}, .output_tail = {}};
  for (int i = 0; i < in.seen_ids_size(); ++i)
    slot.seen.push_back({.token_id = in.seen_ids(i), .n_output = in.seen_counts(i)});
  slot.output_tail.assign(in.output_tail().begin(), in.output_tail().end());
  out = std::make_shared<SlotRules>(std::move(slot));
  return nullptr;
}

}  // namespace trireme::detail
