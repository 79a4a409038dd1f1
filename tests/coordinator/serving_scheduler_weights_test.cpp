// A scheduler while sequences of two generations of weights run.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "tests/coordinator/serving_bench.h"

namespace trireme {
namespace {

using fake::Bench;

GenerateRequest request_on(uint64_t generation, int32_t n_prompt, int32_t max_new_tokens,
                           uint64_t seed) {
  GenerateRequest request = fake::request_of(n_prompt, max_new_tokens, seed);
  request.weights = std::make_shared<ServedWeights>(ServedWeights{.generation = generation});
  return request;
}

// Every layout of plans: depth of the pipeline, plans ahead.
class SchedulerWeights : public testing::TestWithParam<std::pair<int32_t, int32_t>> {
 protected:
  static SchedulerConfig config() {
    SchedulerConfig config = fake::small_config();
    config.n_stages = GetParam().first;
    config.n_plans_ahead = GetParam().second;
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(Pipelines, SchedulerWeights,
                         testing::Values(std::pair(1, 0), std::pair(1, 1), std::pair(2, 1),
                                         std::pair(3, 1)));

TEST_P(SchedulerWeights, APlanIsOfOneGenerationAndTheyTakeTurns) {
  Bench bench(config());
  for (uint64_t seed = 1; seed <= 4; ++seed) bench.add(request_on(1 + seed % 2, 20, 60, seed));
  int run = 0;
  int longest_run = 0;
  uint64_t last = 0;
  const auto look = [&](const StepPlan& plan) {
    for (const SequencePlan& part : plan.sequences) {
      const uint64_t own = bench.requests.at(part.request_id).weights->generation;
      EXPECT_EQ(plan.generation, own);
    }
    run = plan.generation == last ? run + 1 : 1;
    last = plan.generation;
    if (bench.scheduler.n_of(1) > 0 && bench.scheduler.n_of(2) > 0)
      longest_run = std::max(longest_run, run);
  };
  while (bench.scheduler.n_running() + bench.scheduler.n_waiting() > 0) {
    bench.plan_all(look);
    bench.answer_oldest();
  }
  // While one's sequences are all in flight, the other may have more than one turn.
  EXPECT_LE(longest_run, config().max_plans_in_flight());
  bench.run_to_the_end();
}

// A new one may not wait until the old ones have ended.
TEST_P(SchedulerWeights, AnotherGenerationsPromptIsNotStarved) {
  Bench bench(config());
  bench.add(request_on(1, 4, 200, 1));
  for (int i = 0; i < 10; ++i) {
    bench.plan_all();
    bench.answer_oldest();
  }
  const RequestId late = bench.add(request_on(2, 40, 5, 2));
  for (int i = 0; i < 40 && bench.heard[late].finish == FinishReason::kNone; ++i) {
    bench.plan_all();
    bench.answer_oldest();
  }
  EXPECT_EQ(bench.heard[late].finish, FinishReason::kLength) << "it waits for the other one's end";
  while (!bench.in_flight.empty()) bench.answer_oldest();
  bench.run_to_the_end();
}

// The oldest gets the block that the youngest, of other weights, holds.
TEST_P(SchedulerWeights, TheOldestIsNotStarvedOfBlocks) {
  SchedulerConfig tight = config();
  tight.max_slots = 2;
  Bench bench(tight, /*kv_blocks=*/7);
  const RequestId oldest = bench.add(request_on(1, 16, 80, 1));
  bench.add(request_on(2, 16, 80, 2));
  int n_plans = 0;
  while (bench.heard[oldest].finish == FinishReason::kNone && n_plans < 1000) {
    bench.plan_all([&](const StepPlan&) { ++n_plans; });
    bench.answer_oldest();
  }
  EXPECT_LT(n_plans, 300);
  EXPECT_GT(bench.scheduler.n_preemptions(), 0U);
  while (!bench.in_flight.empty()) bench.answer_oldest();
  bench.run_to_the_end();
}

// While two of the old weights run, it is the turn of the others whenever the youngest, one of the
// new weights, is back: so the oldest may wait until that needs a block itself, and no longer.
TEST_P(SchedulerWeights, TheOldestWaitsForABlockNoLongerThanTheYoungestHasRoom) {
  SchedulerConfig tight = config();
  tight.max_slots = 3;
  for (int32_t n_second = 1; n_second <= 16; ++n_second) {
    for (int32_t n_third = 1; n_third <= 16; ++n_third) {
      Bench bench(tight, /*kv_blocks=*/9);
      const RequestId oldest = bench.add(request_on(1, 15, 100, 1));
      bench.add(request_on(1, n_second, 40, 2));
      bench.add(request_on(2, n_third, 100, 3));
      size_t n_heard = 0;
      int n_waited = 0;
      while (bench.heard[oldest].finish == FinishReason::kNone) {
        bench.plan_all();
        bench.answer_oldest();
        n_waited = bench.heard[oldest].token_ids.size() > n_heard ? 0 : n_waited + 1;
        n_heard = bench.heard[oldest].token_ids.size();
        ASSERT_LE(n_waited, 2 * kBlockSize);
      }
      EXPECT_GT(bench.scheduler.n_preemptions(), 0U);
      while (!bench.in_flight.empty()) bench.answer_oldest();
      bench.run_to_the_end();
    }
  }
}

TEST_P(SchedulerWeights, AfterALossEachIsReplayedOnItsOwn) {
  for (const bool kv_kept : {false, true}) {
    Bench bench(config());
    for (uint64_t seed = 1; seed <= 5; ++seed) bench.add(request_on(1 + seed % 2, 30, 40, seed));
    for (int i = 0; i < 25; ++i) {
      bench.plan_all();
      bench.answer_oldest();
    }
    bench.in_flight.clear();
    bench.lose();
    EXPECT_EQ(bench.scheduler.n_of(1) + bench.scheduler.n_of(2), 5);
    bench.up(kv_kept);
    bench.run_to_the_end();
  }
}

TEST(SchedulerWeightsCount, FollowsSequencesThatComeAndGo) {
  Bench bench(fake::small_config());
  const RequestId first = bench.add(request_on(1, 10, 5, 1));
  bench.add(request_on(2, 10, 5, 2));
  EXPECT_EQ(bench.scheduler.n_of(1), 1);
  const std::unique_ptr<Sequence> taken = bench.scheduler.take(first);
  EXPECT_EQ(bench.scheduler.n_of(1), 0);
  EXPECT_EQ(taken->generation(), 1U);
  const std::optional<StepPlan> plan = bench.scheduler.plan_step();
  ASSERT_TRUE(plan);
  bench.scheduler.cancel(2);
  EXPECT_EQ(bench.scheduler.n_of(2), 1) << "the ranks compute with its weights still";
  bench.answer(*plan);
  EXPECT_EQ(bench.scheduler.n_of(2), 0);
}

}  // namespace
}  // namespace trireme
