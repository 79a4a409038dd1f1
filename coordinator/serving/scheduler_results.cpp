// The scheduler's other half: what comes back from the group.

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "coordinator/serving/scheduler.h"
#include "kernels/check.h"

namespace trireme {
namespace {

// A suspect is cleared when it drew so many tokens since the group was lost: one by its replay, one
// by an ordinary step.
constexpr int32_t kProofTokens = 2;

// What the sampling rank said of each sequence of a plan.
std::vector<SequenceResult> take_answers(std::vector<StepResult>& results) {
  for (StepResult& result : results) {
    if (!result.sequences.empty()) return std::exchange(result.sequences, {});
  }
  return {};
}

// One event a token, as if each had been drawn by a plan of its own: the first has what else the
// event tells, the last how the request ended.
void tell_by_token(RequestId id, GenerateEvent&& event, std::vector<SequenceEvent>& events) {
  const auto n_later = static_cast<int32_t>(event.token_ids.size()) - 1;
  if (n_later <= 0) {
    events.push_back({id, std::move(event)});
    return;
  }
  const std::vector<int32_t> token_ids = std::move(event.token_ids);
  const std::vector<float> logprobs = std::move(event.logprobs);
  std::vector<std::vector<TokenLogprob>> top_logprobs = std::move(event.top_logprobs);
  const FinishReason finish = std::exchange(event.finish, FinishReason::kNone);
  const int32_t n_output_tokens = event.n_output_tokens;
  for (int32_t i = 0; i <= n_later; ++i) {
    const auto at = static_cast<size_t>(i);
    GenerateEvent each = std::exchange(event, {.n_prompt_tokens = event.n_prompt_tokens,
                                               .n_cached_tokens = event.n_cached_tokens});
    each.token_ids = {token_ids[at]};
    each.logprobs = {logprobs[at]};
    each.top_logprobs = {std::move(top_logprobs[at])};
    each.n_output_tokens = n_output_tokens - n_later + i;
    if (i == n_later) each.finish = finish;
    events.push_back({id, std::move(each)});
  }
}

}  // namespace

StepOutcome Scheduler::apply(StepResult&& result, std::vector<SequenceEvent>& events) {
  if (!serving_ || result.epoch != epoch_) return {};
  const auto found = std::find_if(in_flight_.begin(), in_flight_.end(),
                                  [&](const auto& step) { return step.step_id == result.step_id; });
  const bool answers = !result.sequences.empty();
  TRIREME_CHECK_MSG(found != in_flight_.end() || !answers, "a result of a plan not in flight");
  if (found == in_flight_.end() || (!answers && !found->trace)) return {};
  found->results.push_back(std::move(result));
  const size_t n_expected = found->trace ? static_cast<size_t>(config_.n_ranks) : 1;
  if (found->results.size() < n_expected) return {};
  PlanInFlight step = std::move(*found);
  in_flight_.erase(found);
  const StepOutcome outcome{.completed = true, .n_tokens = step.n_tokens};
  complete(std::move(step), events);
  return outcome;
}

void Scheduler::complete(PlanInFlight&& step, std::vector<SequenceEvent>& events) {
  std::vector<SequenceResult> answers = take_answers(step.results);
  TRIREME_CHECK_MSG(answers.size() == step.parts.size(),
                    "a result has more or fewer sequences than its plan");
  for (size_t i = 0; i < step.parts.size(); ++i) {
    const auto [part, n_tokens] = step.parts[i];
    Sequence& sequence = *part;
    if (sequence.ended) {
      drop_result(sequence, n_tokens);
      publish(sequence);
      if (!sequence.in_flight()) remove(sequence);
      continue;
    }
    GenerateEvent event =
        take_result(sequence, n_tokens, std::move(answers[i]), config_.eos_token_ids);
    publish(sequence);
    if (event.n_guessed > 0) {
      const int32_t n_computed = sequence.kv.n_computed;
      FairQueue::charge(sequence, n_computed - event.n_guessed_right, n_computed);
      ++guess_counts_.n_plans;
      guess_counts_.n_guessed += static_cast<uint64_t>(event.n_guessed);
      guess_counts_.n_right += static_cast<uint64_t>(event.n_guessed_right);
    }
    if (sequence.log.request.trace) event.traces = step.results;
    if (!sequence.in_flight()) ready_.push_back(&sequence);
    settle_suspect(sequence);
    const RequestId id = sequence.id;
    if (event.finish != FinishReason::kNone) end(sequence);
    if (!event_is_empty(event)) tell_by_token(id, std::move(event), events);
  }
}

// Its client was told all. The ranks may still write to the blocks of a plan in flight: they are
// kept until the last result.
void Scheduler::end(Sequence& sequence) {
  sequence.ended = true;
  if (!sequence.in_flight()) remove(sequence);
}

int32_t Scheduler::group_lost(bool wanted) {
  TRIREME_CHECK(serving_);
  serving_ = false;
  in_flight_.clear();
  for (const auto& [id, sequence] : std::map(running_)) {
    if (!sequence->in_flight()) continue;
    sequence->kv.n_plans = 0;
    if (sequence->ended) {
      remove(*sequence);
    } else if (wanted) {
      continue;
    } else if (sequence->suspect) {
      sequence->struck = true;
    } else {
      sequence->suspect = true;
      sequence->newly_suspect = true;
      sequence->proof_length = sequence->log.n_output() + kProofTokens;
      ++n_suspects_;
    }
  }
  const int32_t n_requeued = n_running();
  all_wait_again();
  suspect_had_turn_ = false;
  TRIREME_CHECK_MSG(blocks_.n_running() == 0, "a KV block leaked");
  TRIREME_CHECK_MSG(free_slots_.size() == static_cast<size_t>(config_.max_slots), "a slot leaked");
  return n_requeued;
}

// After a loss, when the ranks are back.
void Scheduler::judge_suspects(bool kv_kept, std::vector<SequenceEvent>& events) {
  for (Sequence* sequence : waiting()) {
    const bool struck = std::exchange(sequence->struck, false);
    const bool newly_suspect = std::exchange(sequence->newly_suspect, false);
    if (kv_kept && newly_suspect) clear_suspect(*sequence);
    if (kv_kept || !struck) continue;
    events.push_back({sequence->id, final_event(*sequence, FinishReason::kError,
                                                "the ranks failed twice while they computed this "
                                                "request; it is not tried again")});
    remove(*sequence);
  }
}

void Scheduler::settle_suspect(Sequence& sequence) {
  if (sequence.suspect && sequence.log.n_output() >= sequence.proof_length) clear_suspect(sequence);
}

void Scheduler::clear_suspect(Sequence& sequence) {
  sequence.suspect = sequence.newly_suspect = sequence.struck = false;
  --n_suspects_;
}

void Scheduler::remove(Sequence& sequence) {
  TRIREME_CHECK(!sequence.in_flight());
  n_suspects_ -= sequence.suspect ? 1 : 0;
  if (sequence.kv.slot >= 0) wait_again(sequence);
  forget_kv(sequence);
  waiting_.erase(sequence);
  waiting_.leave(sequence);
  leave_generation(sequence);
  sequences_.erase(sequence.id);
}

void Scheduler::leave_generation(const Sequence& sequence) {
  const auto found = n_of_.find(sequence.generation());
  if (--found->second == 0) n_of_.erase(found);
}

}  // namespace trireme
