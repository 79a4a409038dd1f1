// Thousands of random schedules on the fake ranks: whatever the chunking, batching, preemption,
// cancellation and loss of groups, every request hears the undisturbed tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>

#include "coordinator/serving/scheduler.h"
#include "tests/coordinator/serving_fake_drafter.h"
#include "tests/coordinator/serving_fake_ranks.h"

namespace trireme {
namespace {

struct Coverage {
  uint64_t n_preemptions = 0;
  int n_lost = 0;
  int n_quarantined = 0;
  int n_kept = 0;  // sequences that went on from the KV of a lost group
  int n_cancelled = 0;
  int n_finished = 0;
  int n_late_results = 0;
  uint64_t n_cached = 0;  // tokens that were not computed again
  uint64_t n_right = 0;   // guessed tokens
  uint64_t n_wrong = 0;
  size_t most_plans_in_flight = 0;
  int most_draws_in_flight = 0;
};

class RandomRun {
 public:
  RandomRun(uint64_t seed, Coverage& coverage)
      : random_(seed), coverage_(coverage), config_(random_config()), scheduler_(config_) {
    n_blocks_ = pick(8, 24);
    make_requests();
  }

  void run() {
    for (int i = 0; !done(); ++i) {
      ASSERT_LT(i, 200000) << "a request never ended";
      act();
      check_bounds();
      if (testing::Test::HasFailure()) return;
    }
    drain_results();
    coverage_.n_preemptions += scheduler_.n_preemptions();
    coverage_.n_cached += scheduler_.prefix_cache_counts().n_hit;
    coverage_.n_right += scheduler_.guess_counts().n_right;
    coverage_.n_wrong += scheduler_.guess_counts().n_guessed - scheduler_.guess_counts().n_right;
    EXPECT_EQ(scheduler_.n_running(), 0);
    EXPECT_EQ(scheduler_.n_waiting(), 0);
    if (scheduler_.serving()) {
      EXPECT_EQ(scheduler_.n_unheld_blocks(), n_blocks_);
    }
    check_transcripts();
  }

 private:
  int32_t pick(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  bool chance(double p) { return std::bernoulli_distribution(p)(random_); }

  SchedulerConfig random_config() {
    SchedulerConfig config;
    config.max_slots = pick(1, 8);
    config.max_batch_tokens = pick(1, 48);
    config.max_prefill_tokens = pick(1, 48);
    config.n_stages = pick(1, 4);
    config.n_plans_ahead = pick(0, 2);
    config.context_length = 100;
    config.vocab_size = fake::kVocabSize;
    config.eos_token_ids = {fake::kEos};
    config.prefix_cache = chance(0.8);
    if (chance(0.4)) {
      config.make_drafter = fake::oracle_maker(random_(), chance(0.5) ? 0.1 : 0.6);
      config.max_guesses = pick(1, 8);
    }
    if (chance(0.7)) {
      config.perturbation.seed = random_();
      config.perturbation.random_chunks = chance(0.7);
      config.perturbation.shuffle_batch = chance(0.7);
      config.perturbation.preempt_probability = chance(0.5) ? 0.03 : 0.0;
      config.perturbation.colliding_prefixes = chance(0.1);
    }
    return config;
  }

  void make_requests() {
    n_requests_ = pick(1, 14);
    for (int32_t i = 1; i <= n_requests_; ++i) {
      GenerateRequest& request = requests_[static_cast<RequestId>(i)];
      const int32_t n_prompt = pick(1, 60);
      for (int32_t k = 0; k < n_prompt; ++k) request.prompt_ids.push_back(pick(0, 96));
      if (i > 1 && chance(0.6)) begin_like_another(request, i - 1);
      if (chance(0.2)) request.cache_salt = chance(0.5) ? "a" : "b";
      request.max_new_tokens = chance(0.15) ? 0 : pick(1, 40);
      request.want_embedding = request.max_new_tokens == 0 && chance(0.7);
      request.sampling.seed = random_();
      request.choice = static_cast<uint32_t>(pick(0, 3));
      request.ignore_eos = chance(0.5);
      if (chance(0.3)) request.stop_token_ids = {pick(0, 96)};
      request.want_prompt_logprobs = chance(0.4);
      request.want_last_logits = chance(0.3);
      if (chance(0.4)) request.rules = fake::some_rules(random_());
      if (chance(0.3)) request.priority = pick(-2, 2);
      if (chance(0.7)) request.tenant = std::string(1, static_cast<char>('a' + pick(0, 3)));
    }
  }

  // Like one of the first n: its prompt, and perhaps what it is answered.
  void begin_like_another(GenerateRequest& request, int32_t n) {
    const GenerateRequest& other = requests_[static_cast<RequestId>(pick(1, n))];
    std::vector<int32_t> tokens = other.prompt_ids;
    if (chance(0.5)) {
      const std::vector<int32_t> answer = fake::undisturbed(other).token_ids;
      tokens.insert(tokens.end(), answer.begin(), answer.end());
    }
    const size_t n_same = std::min(tokens.size(), static_cast<size_t>(pick(1, 60)));
    request.prompt_ids.resize(std::max(request.prompt_ids.size(), n_same));
    std::copy_n(tokens.begin(), n_same, request.prompt_ids.begin());
  }

  bool done() const {
    if (next_ <= n_requests_) return false;
    return std::all_of(requests_.begin(), requests_.end(), [&](const auto& entry) {
      const auto heard = heard_.find(entry.first);
      return cancelled_.count(entry.first) > 0 ||
             (heard != heard_.end() && heard->second.finish != FinishReason::kNone);
    });
  }

  void act() {
    if (!scheduler_.serving()) {
      if (chance(0.3)) group_up();
    } else if (n_losses_left_ > 0 && chance(0.01)) {
      lose_group();
    }
    if (next_ <= n_requests_ && chance(0.1)) {
      const auto id = static_cast<RequestId>(next_++);
      scheduler_.add(make_sequence(id, requests_[id]), events_);
    }
    if (chance(0.01)) scheduler_.limit_prompts(pick(1, 48));
    if (chance(0.6)) plan();
    if (chance(0.5) && !results_.empty()) answer();
    if (chance(0.002) && next_ > 1) cancel(static_cast<RequestId>(pick(1, next_ - 1)));
    hear();
  }

  void group_up() {
    const bool kv_kept = ranks_.has_value() && chance(0.5);
    // Kept KV says that no rank was at fault.
    for (const RequestId id : std::exchange(in_flight_at_loss_, {})) n_crashes_[id] += !kv_kept;
    if (kv_kept)
      ranks_->relaunch();
    else
      ranks_.emplace(config_.max_slots, n_blocks_, config_.max_batch_tokens);
    scheduler_.group_up(scheduler_.epoch() + 1, n_blocks_, kv_kept, events_);
  }

  void lose_group() {
    --n_losses_left_;
    ++coverage_.n_lost;
    std::set<RequestId> in_flight;
    for (const StepResult& result : results_) {
      if (result.epoch != scheduler_.epoch()) continue;
      for (const SequenceResult& part : result.sequences) in_flight.insert(part.request_id);
    }
    in_flight_at_loss_ = in_flight;
    scheduler_.group_lost();
    // Some results of the lost epoch still arrive.
    if (chance(0.5)) results_.clear();
  }

  void plan() {
    const std::optional<StepPlan> plan = scheduler_.plan_step();
    if (!plan) return;
    for (const SequencePlan& part : plan->sequences)
      coverage_.n_kept += part.reset_slot && part.start_position > 0 ? 1 : 0;
    results_.push_back(ranks_->run(*plan));
  }

  void answer() {
    StepResult result = std::move(results_.front());
    results_.pop_front();
    const bool current = scheduler_.serving() && result.epoch == scheduler_.epoch();
    coverage_.n_late_results += current ? 0 : 1;
    if (current) ranks_->confirm(result.step_id);
    EXPECT_EQ(scheduler_.apply(std::move(result), events_).completed, current);
  }

  void cancel(RequestId id) {
    hear();
    if (heard_[id].finish != FinishReason::kNone || cancelled_.count(id) > 0) return;
    EXPECT_TRUE(scheduler_.cancel(id));
    cancelled_.insert(id);
    ++coverage_.n_cancelled;
  }

  void drain_results() {
    while (!results_.empty()) answer();
    hear();
  }

  void hear() {
    for (SequenceEvent& e : std::exchange(events_, {})) {
      EXPECT_EQ(cancelled_.count(e.id), 0U) << "an event after cancel";
      heard_[e.id].hear(std::move(e.event));
    }
  }

  void check_bounds() {
    std::map<RequestId, int> n_draws;
    size_t n_plans = 0;
    for (const StepResult& result : results_) {
      if (!scheduler_.serving() || result.epoch != scheduler_.epoch()) continue;
      ++n_plans;
      for (const SequenceResult& part : result.sequences)
        n_draws[part.request_id] += part.drawn.empty() ? 0 : 1;
    }
    for (const auto& [id, n] : n_draws) {
      EXPECT_LE(n, 1 + config_.n_plans_ahead) << "request " << id << " is too far ahead";
      coverage_.most_draws_in_flight = std::max(coverage_.most_draws_in_flight, n);
    }
    EXPECT_LE(n_plans, static_cast<size_t>(config_.max_plans_in_flight()));
    EXPECT_LE(scheduler_.n_running(), config_.max_slots);
    coverage_.most_plans_in_flight = std::max(coverage_.most_plans_in_flight, n_plans);
  }

  void check_transcripts() {
    for (const auto& [id, request] : requests_) {
      SCOPED_TRACE(id);
      const fake::Transcript want = fake::undisturbed(request);
      const fake::Transcript& got = heard_[id];
      if (got.finish == FinishReason::kError || cancelled_.count(id) > 0) {
        if (got.finish == FinishReason::kError) {
          ++coverage_.n_quarantined;
          EXPECT_GE(n_crashes_[id], 2) << got.error;
        }
        ASSERT_LE(got.token_ids.size(), want.token_ids.size());
        EXPECT_TRUE(std::equal(got.token_ids.begin(), got.token_ids.end(), want.token_ids.begin()));
      } else {
        ++coverage_.n_finished;
        fake::expect_equal(got, want);
      }
    }
  }

  std::mt19937_64 random_;
  Coverage& coverage_;
  SchedulerConfig config_;
  Scheduler scheduler_;
  int32_t n_blocks_ = 0;
  int32_t n_requests_ = 0;
  int32_t next_ = 1;
  int n_losses_left_ = 5;
  std::optional<fake::Ranks> ranks_;
  std::map<RequestId, GenerateRequest> requests_;
  std::map<RequestId, fake::Transcript> heard_;
  std::set<RequestId> in_flight_at_loss_;
  std::map<RequestId, int> n_crashes_;  // while a plan with it was in flight
  std::set<RequestId> cancelled_;
  std::deque<StepResult> results_;
  std::vector<SequenceEvent> events_;
};

TEST(RandomSchedule, EveryRequestHearsTheUndisturbedTokens) {
  Coverage coverage;
  for (uint64_t seed = 1; seed <= 4000; ++seed) {
    SCOPED_TRACE(seed);
    RandomRun(seed, coverage).run();
    if (HasFailure()) return;
  }
  EXPECT_GT(coverage.n_preemptions, 1000U);
  EXPECT_GT(coverage.n_lost, 1000);
  EXPECT_GT(coverage.n_quarantined, 10);
  EXPECT_GT(coverage.n_cancelled, 100);
  EXPECT_GT(coverage.n_kept, 500);
  EXPECT_GT(coverage.n_finished, 10000);
  EXPECT_GT(coverage.n_late_results, 100);
  EXPECT_GT(coverage.n_cached, 50000U);
  EXPECT_GT(coverage.n_right, 10000U);
  EXPECT_GT(coverage.n_wrong, 10000U);
  EXPECT_EQ(coverage.most_plans_in_flight, 6U);
  EXPECT_EQ(coverage.most_draws_in_flight, 3);
  RecordProperty("preemptions", static_cast<int>(coverage.n_preemptions));
  RecordProperty("quarantined", coverage.n_quarantined);
}

}  // namespace
}  // namespace trireme
