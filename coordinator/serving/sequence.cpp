#include "coordinator/serving/sequence.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/int_math.h"

namespace trireme {
namespace {

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Whether log p of the token after `position` is still to be gathered.
bool wants_logprob_after(const TokenLog& log, int32_t position) {
  return log.request.want_prompt_logprobs && position >= log.n_prompt_logprobs &&
         position + 1 < log.n_prompt();
}

// The plan [begin, end) ends where a token is to be drawn.
bool draws_token(const TokenLog& log, int32_t end) {
  return end == log.n_known() && log.request.max_new_tokens > 0;
}

bool wants_logits(const TokenLog& log, int32_t end) {
  return log.request.want_last_logits && !log.last_logits_given && end == log.n_prompt();
}

bool wants_embedding(const TokenLog& log, int32_t end) {
  return log.request.want_embedding && end == log.n_prompt();
}

std::vector<int32_t> logprob_targets(const TokenLog& log, int32_t begin, int32_t n) {
  std::vector<int32_t> targets;
  bool any = false;
  for (int32_t position = begin; position < begin + n; ++position) {
    const bool wanted = wants_logprob_after(log, position);
    targets.push_back(wanted ? log.token(position + 1) : -1);
    any |= wanted;
  }
  if (!any) targets.clear();
  return targets;
}

// What the ranks have to know to go on with the rules in a new slot; null: nothing.
std::shared_ptr<const SlotRules> slot_rules(const TokenLog& log) {
  const std::shared_ptr<const LogitRules>& rules = log.request.rules;
  if (rules == nullptr) return nullptr;
  SlotRules made{.rules = rules, .seen = {}, .output_tail = {}};
  const std::vector<int32_t>& output = log.output_ids;
  const size_t n_tail = std::min(rules->n_tail(), output.size());
  made.output_tail.assign(output.end() - static_cast<std::ptrdiff_t>(n_tail), output.end());
  if (!rules->has_penalties()) return std::make_shared<SlotRules>(std::move(made));

  std::vector<TokenCount>& seen = made.seen;
  for (const int32_t id : log.request.prompt_ids) seen.push_back({.token_id = id});
  for (const int32_t id : output) seen.push_back({.token_id = id, .n_output = 1});
  std::sort(seen.begin(), seen.end(),
            [](const TokenCount& a, const TokenCount& b) { return a.token_id < b.token_id; });
  size_t n = 0;
  for (const TokenCount& each : seen) {
    if (n > 0 && seen[n - 1].token_id == each.token_id) {
      seen[n - 1].n_output += each.n_output;
    } else {
      seen[n++] = each;
    }
  }
  seen.resize(n);
  return std::make_shared<SlotRules>(std::move(made));
}

void gather_prompt_logprobs(TokenLog& log, int32_t begin, int32_t end, SequenceResult& result,
                            GenerateEvent& event) {
  const int32_t n_wanted = log.n_prompt() - 1;
  const bool asked =
      log.request.want_prompt_logprobs && log.n_prompt_logprobs < std::min(end, n_wanted);
  if (!asked) return;
  TRIREME_CHECK_MSG(result.target_logprobs.size() == static_cast<size_t>(end - begin),
                    "a result lacks the prompt logprobs asked for");
  const bool with_tops = log.request.n_prompt_logprobs > 0;
  TRIREME_CHECK_MSG(
      !with_tops || result.target_top_logprobs.size() == result.target_logprobs.size(),
      "a result lacks the prompt's most likely tokens");
  for (int32_t i = log.n_prompt_logprobs; i < std::min(end, n_wanted); ++i) {
    const auto at = static_cast<size_t>(i - begin);
    log.prompt_logprobs.push_back(result.target_logprobs[at]);
    if (with_tops) log.prompt_top_logprobs.push_back(std::move(result.target_top_logprobs[at]));
    ++log.n_prompt_logprobs;
  }
  if (log.n_prompt_logprobs != n_wanted) return;
  event.prompt_logprobs = std::exchange(log.prompt_logprobs, {});
  event.prompt_top_logprobs = std::exchange(log.prompt_top_logprobs, {});
}

FinishReason reason_to_stop(const TokenLog& log, const std::vector<int32_t>& eos_token_ids) {
  const GenerateRequest& request = log.request;
  if (request.want_embedding) return FinishReason::kStop;
  if (log.n_output() > 0) {
    const int32_t last = log.output_ids.back();
    const bool heeds_eos = !request.ignore_eos || !request.grammar.empty();
    if (heeds_eos && contains(eos_token_ids, last)) return FinishReason::kStop;
    if (contains(request.stop_token_ids, last)) return FinishReason::kStop;
  }
  if (log.n_output() >= request.max_new_tokens) return FinishReason::kLength;
  return FinishReason::kNone;
}

}  // namespace

int32_t TokenLog::token(int32_t position) const {
  TRIREME_CHECK(position >= 0 && position < n_known());
  return position < n_prompt() ? request.prompt_ids[static_cast<size_t>(position)]
                               : output_ids[static_cast<size_t>(position - n_prompt())];
}

int32_t TokenLog::n_reusable() const {
  if (request.trace) return 0;
  int32_t n = n_known() - 1;
  if (request.want_prompt_logprobs && n_prompt_logprobs < n_prompt() - 1)
    n = std::min(n, n_prompt_logprobs);
  if (request.want_last_logits && !last_logits_given) n = std::min(n, n_prompt() - 1);
  return n;
}

PrefixDomain Sequence::domain() const {
  return {.model_id = log.request.model_id,
          .adapter_id = log.request.adapter_id,
          .generation = generation(),
          .cache_salt = log.request.cache_salt};
}

PrefixKey prefix_after(const Sequence& sequence, PrefixId parent, int32_t n_blocks) {
  PrefixKey key{.parent = parent, .tokens = {}, .domain = sequence.domain()};
  const int32_t begin = n_blocks * kBlockSize;
  for (int32_t i = 0; i < kBlockSize; ++i)
    key.tokens[static_cast<size_t>(i)] = sequence.log.token(begin + i);
  return key;
}

PrefixKey next_prefix(const Sequence& sequence) {
  return prefix_after(sequence, sequence.kv.prefix, sequence.kv.n_prefix_blocks);
}

std::unique_ptr<Sequence> make_sequence(RequestId id, GenerateRequest request) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  TRIREME_CHECK(request.output_ids.empty() ||
                static_cast<int32_t>(request.output_ids.size()) < request.max_new_tokens);
  TRIREME_CHECK(!request.want_embedding || request.max_new_tokens == 0);
  sequence->log.output_ids = std::exchange(request.output_ids, {});
  sequence->numerics_id = std::exchange(request.numerics_id, {});
  sequence->log.request = std::move(request);
  return sequence;
}

int32_t max_kv_tokens(const GenerateRequest& request) {
  return static_cast<int32_t>(request.prompt_ids.size()) + std::max(0, request.max_new_tokens - 1);
}

SequencePlan plan_tokens(Sequence& sequence, int32_t n, const std::vector<int32_t>& guesses) {
  KvState& kv = sequence.kv;
  const TokenLog& log = sequence.log;
  TRIREME_CHECK(!sequence.ended && kv.slot >= 0);
  TRIREME_CHECK(n > 0 && n <= sequence.n_left());
  const int32_t begin = kv.n_computed + kv.n_planned;
  const int32_t end = begin + n;
  const auto n_guesses = static_cast<int32_t>(guesses.size());
  TRIREME_CHECK(n_guesses == 0 || (end == log.n_known() && kv.n_plans == 0 &&
                                   log.n_output() + n_guesses < log.request.max_new_tokens));
  // Guesses that were wrong may have had blocks beyond.
  const int32_t n_blocks = std::max(kv.n_blocks_sent, div_ceil(end + n_guesses, kBlockSize));
  TRIREME_CHECK(static_cast<size_t>(n_blocks) <= kv.blocks.size());

  SequencePlan plan;
  plan.request_id = sequence.id;
  plan.model_id = log.request.model_id;
  plan.adapter_id = log.request.adapter_id;
  plan.choice = log.request.choice;
  plan.slot = kv.slot;
  plan.reset_slot = std::exchange(kv.fresh, false);
  if (plan.reset_slot) plan.slot_rules = slot_rules(log);
  plan.start_position = begin;
  plan.input_ids.reserve(static_cast<size_t>(n + n_guesses));
  for (int32_t i = begin; i < end; ++i)
    plan.input_ids.push_back(i < log.n_known() ? log.token(i) : kTokenFromSlot);
  plan.input_ids.insert(plan.input_ids.end(), guesses.begin(), guesses.end());
  plan.n_guesses = n_guesses;
  plan.new_blocks.assign(kv.blocks.begin() + kv.n_blocks_sent, kv.blocks.begin() + n_blocks);
  plan.sample = draws_token(log, end - kv.n_drawing);
  plan.output_index = log.n_output() + kv.n_drawing;
  plan.sampling = log.request.sampling;
  plan.want_logits = wants_logits(log, end);
  plan.logprob_targets = logprob_targets(log, begin, n);
  plan.n_logprobs = plan.sample ? log.request.n_logprobs : 0;
  plan.n_target_logprobs = plan.logprob_targets.empty() ? 0 : log.request.n_prompt_logprobs;
  plan.masked = plan.sample && sequence.has_grammar();
  plan.want_hidden = wants_embedding(log, end);

  kv.n_blocks_sent = n_blocks;
  kv.n_planned += n + n_guesses;
  kv.n_guesses = n_guesses;
  kv.n_drawing += plan.sample ? 1 : 0;
  ++kv.n_plans;
  return plan;
}

void drop_result(Sequence& sequence, int32_t n) {
  KvState& kv = sequence.kv;
  TRIREME_CHECK(sequence.in_flight() && n <= kv.n_planned);
  kv.n_computed += n;
  kv.n_planned -= n;
  kv.n_guesses = 0;
  --kv.n_plans;
}

GenerateEvent take_result(Sequence& sequence, int32_t n, SequenceResult&& result,
                          const std::vector<int32_t>& eos_token_ids) {
  TRIREME_CHECK_MSG(result.request_id == sequence.id, "a result names another request");
  KvState& kv = sequence.kv;
  TokenLog& log = sequence.log;
  const int32_t n_guesses = kv.n_guesses;
  const int32_t n_right = std::max(0, static_cast<int32_t>(result.drawn.size()) - 1);
  TRIREME_CHECK_MSG(n_right <= n_guesses, "a result has more tokens than were guessed");
  const int32_t begin = kv.n_computed;
  const int32_t end = begin + n - n_guesses;
  const bool drawn = draws_token(log, end);
  drop_result(sequence, n);
  kv.n_computed -= n_guesses - n_right;
  kv.n_drawing -= drawn ? 1 : 0;
  if (n_guesses > 0 && sequence.pace) sequence.pace->learn(n_guesses, n_right);

  GenerateEvent event;
  gather_prompt_logprobs(log, begin, end, result, event);
  if (wants_logits(log, end)) {
    TRIREME_CHECK_MSG(!result.logits.empty(), "a result lacks the logits asked for");
    event.last_logits = std::move(result.logits);
    log.last_logits_given = true;
  }
  if (wants_embedding(log, end)) {
    TRIREME_CHECK_MSG(!result.hidden.empty(), "a result lacks the hidden state asked for");
    event.embedding = std::move(result.hidden);
  }
  if (drawn) {
    TRIREME_CHECK_MSG(!result.drawn.empty(), "a result lacks the token asked for");
    for (DrawnToken& token : result.drawn) {
      log.output_ids.push_back(token.token_id);
      event.token_ids.push_back(token.token_id);
      event.logprobs.push_back(token.logprob);
      event.top_logprobs.push_back(std::move(token.top_logprobs));
      event.finish = reason_to_stop(log, eos_token_ids);
      if (event.finish != FinishReason::kNone) break;
    }
  }
  const bool prompt_only = log.request.max_new_tokens == 0 && end == log.n_prompt();
  if (prompt_only) event.finish = reason_to_stop(log, eos_token_ids);
  event.n_guessed = n_guesses;
  event.n_guessed_right = n_right;
  event.n_prompt_tokens = log.n_prompt();
  event.n_output_tokens = log.n_output();
  event.n_cached_tokens = std::max(0, log.n_cached_prompt);
  return event;
}

bool event_is_empty(const GenerateEvent& event) {
  return event.token_ids.empty() && event.prompt_logprobs.empty() && event.last_logits.empty() &&
         event.traces.empty() && event.finish == FinishReason::kNone;
}

GenerateEvent final_event(const Sequence& sequence, FinishReason reason, std::string error) {
  GenerateEvent event;
  event.finish = reason;
  event.error = std::move(error);
  event.n_prompt_tokens = sequence.log.n_prompt();
  event.n_output_tokens = sequence.log.n_output();
  event.n_cached_tokens = std::max(0, sequence.log.n_cached_prompt);
  return event;
}

}  // namespace trireme
