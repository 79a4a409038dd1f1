#include "coordinator/serving/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/int_math.h"

namespace trireme {
namespace {

// Through a pipeline, prompts go in parts: small ones fill it soon and leave it soon, but each
// reads all weights, and products of few rows are slower.
constexpr int32_t kSmallestPart = 64;
constexpr int32_t kPartsPerStage = 8;

// Waiting sequences that a plan looks at: those in front may wait for a prefix that is computed.
constexpr int32_t kMostLookedAt = 64;

// splitmix64 (Steele, Lea, Flood 2014).
uint64_t next_random(uint64_t& state) {
  uint64_t x = state += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

}  // namespace

Scheduler::Scheduler(SchedulerConfig config) : config_(std::move(config)) {
  TRIREME_CHECK(config_.max_slots > 0);
  TRIREME_CHECK(config_.max_batch_tokens > 0 && config_.max_prefill_tokens > 0);
  TRIREME_CHECK(config_.n_stages > 0 && config_.n_plans_ahead >= 0 && config_.n_ranks > 0);
  TRIREME_CHECK(config_.context_length > 0 && config_.vocab_size > 0);
  for (int32_t slot = config_.max_slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  random_state_ = config_.perturbation.seed;
}

std::optional<Error> Scheduler::refuse(const SchedulerConfig& config, int32_t n_kv_blocks,
                                       const GenerateRequest& request) {
  const auto n_prompt = static_cast<int64_t>(request.prompt_ids.size());
  if (n_prompt == 0) return Error{"the prompt has no tokens; at least 1 is needed", "prompt"};
  for (const int32_t id : request.prompt_ids) {
    if (id < 0 || id >= config.vocab_size)
      return Error{fmt::format("prompt holds token id {}; the vocabulary has ids 0 to {}", id,
                               config.vocab_size - 1),
                   "prompt"};
  }
  if (request.max_new_tokens < 0)
    return Error{fmt::format("max_tokens is {}; it must be at least 0", request.max_new_tokens),
                 "max_tokens"};
  if (request.n_logprobs < 0 || request.n_logprobs > config.vocab_size)
    return Error{fmt::format("logprobs is {}; it must be between 0 and {}", request.n_logprobs,
                             config.vocab_size),
                 "logprobs"};
  if (n_prompt + request.max_new_tokens > config.context_length)
    return Error{fmt::format("the prompt has {} tokens and max_tokens is {}; together they must "
                             "not exceed the context length of {}",
                             n_prompt, request.max_new_tokens, config.context_length),
                 n_prompt > config.context_length ? "prompt" : "max_tokens"};
  const int32_t n_blocks = div_ceil(max_kv_tokens(request), kBlockSize);
  if (n_kv_blocks > 0 && n_blocks > n_kv_blocks)
    return Error{fmt::format("the prompt has {} tokens and max_tokens is {}; that needs {} KV "
                             "blocks and there are {}",
                             n_prompt, request.max_new_tokens, n_blocks, n_kv_blocks),
                 "max_tokens"};
  return std::nullopt;
}

void Scheduler::set_layout(const Layout& layout) {
  TRIREME_CHECK(!serving_ && in_flight_.empty());
  config_.n_stages = layout.pp;
  config_.n_ranks = layout.n_ranks();
}

void Scheduler::group_up(uint64_t epoch, int32_t n_kv_blocks, bool kv_kept,
                         std::vector<SequenceEvent>& events) {
  TRIREME_CHECK(!serving_ && running_.empty() && in_flight_.empty());
  TRIREME_CHECK(n_kv_blocks > 0);
  if (!kv_kept || n_kv_blocks != n_blocks()) {
    for (Sequence* sequence : waiting_.all()) forget_kv(*sequence);
    blocks_ = new_blocks(n_kv_blocks);
  }
  judge_suspects(kv_kept, events);
  serving_ = true;
  // The same one again where another coordinator served it before.
  if (std::exchange(epoch_, epoch) != epoch) last_step_id_ = 0;
  for (Sequence* sequence : waiting()) {
    if (const std::optional<Error> error = refuse(config_, n_blocks(), sequence->log.request)) {
      events.push_back(
          {sequence->id, final_event(*sequence, FinishReason::kError, error->message)});
      remove(*sequence);
    }
  }
}

void Scheduler::add(std::unique_ptr<Sequence> sequence, std::vector<SequenceEvent>& events) {
  TRIREME_CHECK(sequence->kv.slot < 0 && sequence->kv.blocks.empty() && !sequence->ended);
  const RequestId id = sequence->id;
  if (const std::optional<Error> error = refuse(config_, n_blocks(), sequence->log.request)) {
    events.push_back({id, final_event(*sequence, FinishReason::kError, error->message)});
    return;
  }
  Sequence* raw = sequence.get();
  n_suspects_ += raw->suspect ? 1 : 0;
  const bool is_new = sequences_.emplace(id, std::move(sequence)).second;
  TRIREME_CHECK_MSG(is_new, "request ids are never reused");
  ++n_of_[raw->generation()];
  waiting_.join(*raw);
  waiting_.insert(*raw);
}

std::unique_ptr<Sequence> Scheduler::take(RequestId id) {
  Sequence& sequence = *sequences_.at(id);
  forget_kv(sequence);
  n_suspects_ -= sequence.suspect ? 1 : 0;
  sequence.newly_suspect = false;  // the return of another group explains nothing
  leave_generation(sequence);
  waiting_.erase(sequence);
  waiting_.leave(sequence);
  return std::move(sequences_.extract(id).mapped());
}

bool Scheduler::cancel(RequestId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return false;
  Sequence& sequence = *found->second;
  if (sequence.ended) return false;
  end(sequence);
  return true;
}

void Scheduler::fail(RequestId id, const std::string& error, std::vector<SequenceEvent>& events) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end() || found->second->ended) return;
  events.push_back({id, final_event(*found->second, FinishReason::kError, error)});
  events.back().event.own_fault = true;
  end(*found->second);
}

std::optional<StepPlan> Scheduler::plan_step() {
  if (!serving_) return std::nullopt;
  const int32_t limit = n_suspects_ > 0 ? 1 : config_.max_plans_in_flight();
  if (n_plans_in_flight() >= limit) return std::nullopt;
  if (Sequence* next = next_waiting()) attach_cached(*next);
  const bool pipeline_is_full = n_plans_in_flight() >= config_.n_stages;
  if (pipeline_is_full && prompts_wait()) return std::nullopt;
  if (!in_flight_.empty() && holds_back()) return std::nullopt;
  perturb();
  for (const auto& [id, sequence] : running_) sequence->yields = false;

  // While there are suspects, plans go one at a time, theirs and the others' in turn: a group lost
  // with a suspect's plan in flight blames nobody else, and the others' streams go on.
  StepPlan plan;
  const bool suspect_first = n_suspects_ > 0 && !suspect_had_turn_;
  if (suspect_first) plan_suspect(plan);
  suspect_had_turn_ = !plan.sequences.empty();
  if (plan.sequences.empty()) {
    for (const uint64_t generation : generations_in_turn()) {
      plan.generation = generation;
      plan_generation(plan, pipeline_is_full);
      if (plan.sequences.empty()) continue;
      last_generation_ = generation;
      break;
    }
  }
  if (plan.sequences.empty() && n_suspects_ > 0 && !suspect_first) {
    plan_suspect(plan);
    suspect_had_turn_ = true;
  }
  if (plan.sequences.empty()) return std::nullopt;
  launch(plan);
  return plan;
}

// Those with sequences: first one whose turn it was not the last time.
std::vector<uint64_t> Scheduler::generations_in_turn() const {
  std::vector<uint64_t> turns;
  for (const auto& [generation, n] : n_of_) turns.push_back(generation);
  const auto first = std::find_if(turns.begin(), turns.end(), [this](uint64_t generation) {
    return generation != last_generation_;
  });
  std::rotate(turns.begin(), first == turns.end() ? turns.begin() : first, turns.end());
  return turns;
}

void Scheduler::plan_generation(StepPlan& plan, bool pipeline_is_full) {
  plan_running(plan);
  plan_prompts(plan);
  if (plan.sequences.empty() || pipeline_is_full) plan_ahead(plan);
}

bool Scheduler::takes(const StepPlan& plan, const Sequence& sequence) const {
  return sequence.generation() == plan.generation && !sequence.ended && !sequence.suspect &&
         !sequence.yields;
}

int32_t Scheduler::n_of(uint64_t generation) const {
  const auto found = n_of_.find(generation);
  return found == n_of_.end() ? 0 : found->second;
}

// Null: none could begin.
Sequence* Scheduler::next_waiting() const {
  return free_slots_.empty() ? nullptr : waiting_.first();
}

int32_t Scheduler::n_decoding() const {
  return static_cast<int32_t>(std::count_if(
      running_.begin(), running_.end(),
      [](const auto& entry) { return !entry.second->ended && entry.second->decoding(); }));
}

bool Scheduler::prompts_wait() const {
  const Sequence* next = next_waiting();
  if (next != nullptr && can_admit(*next) && !waits_for_prefix(*next)) return true;
  return std::any_of(running_.begin(), running_.end(), [](const auto& entry) {
    const Sequence& sequence = *entry.second;
    return !sequence.ended && sequence.n_left() > 0 && !sequence.decoding();
  });
}

void Scheduler::plan_running(StepPlan& plan) {
  plan_one_token(plan, {ready_.begin(), ready_.end()});
}

// Goes on from the oldest plan in flight.
void Scheduler::plan_ahead(StepPlan& plan) {
  if (in_flight_.empty() || n_guesses_each(fair_share()) > 0) return;
  std::vector<Sequence*> candidates;
  for (const PlanPart& part : in_flight_.front().parts) {
    const bool waits = part.sequence->has_grammar() || part.sequence->kv.n_guesses > 0;
    if (waits && !part.sequence->ended) return;
    if (part.sequence->kv.n_plans <= config_.n_plans_ahead) candidates.push_back(part.sequence);
  }
  plan_one_token(plan, candidates);
}

// One token each of running sequences, no more of them than keeps all pipeline slots equally full.
void Scheduler::plan_one_token(StepPlan& plan, const std::vector<Sequence*>& candidates) {
  const int32_t share = fair_share();
  const int32_t n_each = n_guesses_each(share);
  int32_t n_places = std::min(perturbed(share) - static_cast<int32_t>(plan.sequences.size()),
                              config_.max_batch_tokens - plan.n_tokens());
  for (Sequence* sequence : candidates) {
    if (n_places <= 0) break;
    const bool preempted = sequence->kv.slot < 0;
    if (preempted || !takes(plan, *sequence)) continue;
    if (!sequence->decoding() || sequence->n_left() == 0) continue;
    if (!reserve_next(*sequence)) continue;
    --n_places;
    const int32_t n_rows = config_.max_batch_tokens - plan.n_tokens() - n_places - 1;
    append(plan, *sequence, 1, guess(*sequence, std::min(n_each, n_rows)));
  }
}

// Of the sequences that are decoding, what one pipeline slot takes.
int32_t Scheduler::fair_share() const { return div_ceil(n_decoding(), config_.n_stages); }

int32_t Scheduler::n_guesses_each(int32_t n_sequences) const {
  if (!config_.make_drafter || n_sequences == 0) return 0;
  return std::min(config_.max_guesses, kMostRowsWithGuesses / n_sequences - 1);
}

// What may follow, as far as there are blocks for it that nobody else wants.
std::vector<int32_t> Scheduler::guess(Sequence& sequence, int32_t most) {
  const TokenLog& log = sequence.log;
  const int32_t n_to_draw = log.request.max_new_tokens - log.n_output();
  most = std::min(most, n_to_draw - 1);
  if (most <= 0 || sequence.in_flight() || sequence.has_grammar() || log.request.trace) return {};
  if (!sequence.drafter) {
    sequence.drafter = config_.make_drafter();
    sequence.pace.emplace(config_.max_guesses);
  }
  std::vector<int32_t> guesses =
      sequence.drafter->guess(log, perturbed(std::min(most, sequence.pace->next())));
  guesses.resize(
      static_cast<size_t>(reserve_unused(sequence, static_cast<int32_t>(guesses.size()))));
  return guesses;
}

void Scheduler::plan_prompts(StepPlan& plan) {
  int32_t budget = prefill_budget(plan);
  const auto append_chunk = [&](Sequence& sequence) {
    const int32_t n = perturbed(std::min(sequence.n_left(), budget));
    append(plan, sequence, n);
    budget -= n;
  };
  for (const auto& [id, sequence] : running_) {
    if (budget == 0) return;
    if (takes(plan, *sequence) && sequence->n_left() > 0 && !sequence->decoding())
      append_chunk(*sequence);
  }
  if (budget == 0 || free_slots_.empty()) return;
  FairQueue::Walk walk(waiting_);
  for (int32_t n_looked_at = 0; n_looked_at < kMostLookedAt; ++n_looked_at) {
    Sequence* next = walk.next();
    if (next == nullptr || next->suspect) return;
    if (next->generation() != plan.generation) return;  // its own turn comes
    attach_cached(*next);
    if (waits_for_prefix(*next)) continue;
    if (!can_admit(*next)) return;
    admit(*next);
    append_chunk(*next);
    if (budget == 0 || free_slots_.empty()) return;
  }
}

// The next part of the oldest suspect, alone.
void Scheduler::plan_suspect(StepPlan& plan) {
  Sequence* suspect = nullptr;
  for (const auto& [id, sequence] : running_) {
    if (!sequence->suspect) continue;
    suspect = sequence;
    break;
  }
  if (suspect == nullptr) {
    Sequence* next = next_waiting();
    if (next == nullptr || !next->suspect || !can_admit(*next)) return;
    admit(*next);
    suspect = next;
  }
  TRIREME_CHECK(!suspect->in_flight());
  if (suspect->decoding() && !reserve_next(*suspect)) return;
  plan.generation = suspect->generation();
  append(plan, *suspect, perturbed(std::min(suspect->n_left(), prefill_budget(plan))));
}

int32_t Scheduler::prefill_budget(const StepPlan& plan) const {
  int32_t budget = std::min(config_.max_batch_tokens - plan.n_tokens(), config_.max_prefill_tokens);
  if (config_.n_stages > 1) budget = std::min(budget, pipeline_chunk());
  // Though they be in other plans in flight: those wait for this one at every stage.
  return prompt_limit_ < budget && n_decoding() > 0 ? prompt_limit_ : budget;
}

int64_t Scheduler::n_prompt_tokens_left() const {
  int64_t n_tokens = waiting_.n_tokens();
  for (const auto& [id, sequence] : running_)
    n_tokens += sequence->decoding() ? 0 : sequence->n_left();
  return n_tokens;
}

// A small share of what there is to compute, so that all stages are busy for most of it.
int32_t Scheduler::pipeline_chunk() const {
  const int32_t n_parts = kPartsPerStage * config_.n_stages;
  const int64_t enough = static_cast<int64_t>(n_parts) * config_.max_prefill_tokens;
  const auto share = static_cast<int32_t>(std::min(enough, n_prompt_tokens_left()) / n_parts);
  return std::max(kSmallestPart, round_up(share, kBlockSize));
}

void Scheduler::append(StepPlan& plan, Sequence& sequence, int32_t n,
                       const std::vector<int32_t>& guesses) {
  plan.sequences.push_back(plan_tokens(sequence, n, guesses));
  const int32_t begin = plan.sequences.back().start_position;
  FairQueue::charge(sequence, begin, begin + n);
  plan.trace |= sequence.log.request.trace;
}

// Puts the plan in flight.
void Scheduler::launch(StepPlan& plan) {
  if (config_.perturbation.seed != 0 && config_.perturbation.shuffle_batch) {
    for (size_t i = plan.sequences.size(); i > 1; --i)
      std::swap(plan.sequences[i - 1], plan.sequences[next_random(random_state_) % i]);
  }
  plan.epoch = epoch_;
  plan.step_id = ++last_step_id_;
  plan.feed_samples = config_.n_plans_ahead > 0;
  TRIREME_CHECK(plan.n_tokens() <= config_.max_batch_tokens);

  PlanInFlight step;
  step.step_id = plan.step_id;
  step.n_tokens = plan.n_tokens();
  step.trace = plan.trace;
  for (const SequencePlan& part : plan.sequences) {
    step.parts.push_back({.sequence = sequences_.at(part.request_id).get(),
                          .n_tokens = static_cast<int32_t>(part.input_ids.size())});
  }
  in_flight_.push_back(std::move(step));
  std::erase_if(ready_, [](const Sequence* sequence) { return sequence->in_flight(); });
}

void Scheduler::perturb() {
  const TestPerturbation& perturbation = config_.perturbation;
  if (perturbation.seed == 0 || perturbation.preempt_probability <= 0.0 || ready_.empty()) return;
  const double dice = static_cast<double>(next_random(random_state_) >> 11) * 0x1.0p-53;
  if (dice < perturbation.preempt_probability)
    preempt(*ready_[next_random(random_state_) % ready_.size()]);
}

// n, or with random chunks any number from 1 to n.
int32_t Scheduler::perturbed(int32_t n) {
  const TestPerturbation& perturbation = config_.perturbation;
  if (perturbation.seed == 0 || !perturbation.random_chunks || n <= 1) return n;
  return 1 + static_cast<int32_t>(next_random(random_state_) % static_cast<uint64_t>(n));
}

// With random chunks, every other time: so that there are plans of any number in flight.
bool Scheduler::holds_back() {
  const TestPerturbation& perturbation = config_.perturbation;
  return perturbation.seed != 0 && perturbation.random_chunks &&
         next_random(random_state_) % 2 == 0;
}

}  // namespace trireme
