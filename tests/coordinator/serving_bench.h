#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "coordinator/serving/scheduler.h"
#include "tests/coordinator/serving_fake_ranks.h"

namespace trireme::fake {

inline SchedulerConfig small_config() {
  SchedulerConfig config;
  config.max_slots = 4;
  config.max_batch_tokens = 32;
  config.max_prefill_tokens = 24;
  config.context_length = 256;
  config.vocab_size = kVocabSize;
  config.eos_token_ids = {kEos};
  return config;
}

inline GenerateRequest request_of(int32_t n_prompt, int32_t max_new_tokens, uint64_t seed = 1) {
  GenerateRequest request;
  for (int32_t i = 0; i < n_prompt; ++i)
    request.prompt_ids.push_back(static_cast<int32_t>(mix(seed, 7U + i) % 96) + 1);
  request.sampling.seed = seed;
  request.max_new_tokens = max_new_tokens;
  request.ignore_eos = true;
  return request;
}

// A scheduler on fake ranks, with what every client heard.
struct Bench {
  explicit Bench(const SchedulerConfig& config, int32_t kv_blocks = 64)
      : scheduler(config), n_blocks(kv_blocks) {
    up();
  }

  // kv_kept: the new ranks find the memory of the last.
  void up(bool kv_kept = false) {
    if (kv_kept)
      ranks->relaunch();
    else
      ranks.emplace(scheduler.config().max_slots, n_blocks, scheduler.config().max_batch_tokens);
    scheduler.group_up(scheduler.epoch() + 1, n_blocks, kv_kept, events);
    hear();
  }
  int32_t lose() {
    const int32_t n = scheduler.group_lost();
    hear();
    return n;
  }
  RequestId add(GenerateRequest request) {
    requests[++last_id] = request;
    scheduler.add(make_sequence(last_id, std::move(request)), events);
    hear();
    return last_id;
  }
  StepOutcome answer(const StepPlan& plan) {
    give_masks(plan);
    const StepOutcome outcome = scheduler.apply(ranks->run(plan), events);
    ranks->confirm(plan.step_id);
    hear();
    return outcome;
  }
  // Made from the token logs alone, as the service does after a loss.
  void give_masks(const StepPlan& plan) {
    for (const SequencePlan& part : plan.sequences) {
      if (!part.masked) continue;
      TokenMask mask{
          .epoch = plan.epoch, .step_id = plan.step_id, .request_id = part.request_id, .words = {}};
      if (heard[part.request_id].finish == FinishReason::kNone) {
        const TokenLog& log = scheduler.log(part.request_id);
        Guide guide(log.request.grammar.text);
        for (const int32_t token : log.output_ids) EXPECT_TRUE(guide.push(token).ok());
        mask.words = no_words();
        EXPECT_TRUE(guide.mask(mask.words).ok());
      }
      ranks->mask(mask);
    }
  }
  // Puts in flight what can be planned; answers the oldest of it.
  void plan_all(const std::function<void(const StepPlan&)>& look = {}) {
    while (std::optional<StepPlan> plan = scheduler.plan_step()) {
      if (look) look(*plan);
      in_flight.push_back(*std::move(plan));
    }
    ASSERT_FALSE(in_flight.empty());
  }
  void answer_oldest() {
    answer(in_flight.front());
    in_flight.pop_front();
  }
  // Plans and answers until nothing is left to do.
  void run() {
    while (const std::optional<StepPlan> plan = scheduler.plan_step()) answer(*plan);
  }
  // The same, and every request heard what it should.
  void run_to_the_end() {
    run();
    for (const auto& [id, request] : requests) expect_undisturbed(id);
    expect_idle();
  }
  void hear() {
    for (SequenceEvent& e : std::exchange(events, {})) heard[e.id].hear(std::move(e.event));
  }
  void expect_undisturbed(RequestId id) {
    SCOPED_TRACE(id);
    const auto& weights = requests[id].weights;
    expect_equal(heard[id], undisturbed(requests[id], weights ? weights->generation : 0));
  }
  void expect_idle() const {
    EXPECT_EQ(scheduler.n_running(), 0);
    EXPECT_EQ(scheduler.n_waiting(), 0);
    EXPECT_EQ(scheduler.n_unheld_blocks(), n_blocks);
  }

  Scheduler scheduler;
  int32_t n_blocks;
  std::optional<Ranks> ranks;
  std::deque<StepPlan> in_flight;  // of plan_all
  RequestId last_id = 0;
  std::map<RequestId, GenerateRequest> requests;
  std::map<RequestId, Transcript> heard;
  std::vector<SequenceEvent> events;
};

inline std::vector<RequestId> ids_of(const StepPlan& plan) {
  std::vector<RequestId> ids;
  for (const SequencePlan& part : plan.sequences) ids.push_back(part.request_id);
  return ids;
}

}  // namespace trireme::fake
