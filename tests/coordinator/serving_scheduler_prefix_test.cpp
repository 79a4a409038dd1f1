// What the scheduler finds in the prefix cache, and what it computes.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "coordinator/handover/serving_state.h"
#include "tests/coordinator/serving_bench.h"

namespace trireme {
namespace {

using fake::Bench;
using fake::request_of;

SchedulerConfig wide_config() {
  SchedulerConfig config = fake::small_config();
  config.max_slots = 8;
  config.max_batch_tokens = 64;
  config.max_prefill_tokens = 64;
  return config;
}

// The same prompt, another answer.
GenerateRequest again(GenerateRequest request, uint64_t seed) {
  request.sampling.seed = seed;
  return request;
}

// How many prompt tokens the ranks compute until all is done.
int32_t n_computed(Bench& bench) {
  int32_t n = 0;
  while (const std::optional<StepPlan> plan = bench.scheduler.plan_step()) {
    for (const SequencePlan& part : plan->sequences) {
      const auto n_prompt =
          static_cast<int32_t>(bench.requests.at(part.request_id).prompt_ids.size());
      const auto n_input = static_cast<int32_t>(part.input_ids.size());
      n += std::clamp(n_prompt - part.start_position, 0, n_input);
    }
    bench.answer(*plan);
  }
  return n;
}

TEST(SchedulerPrefix, ASecondRequestComputesWhatIsNew) {
  Bench bench(wide_config());
  const GenerateRequest first = request_of(100, 5, 1);
  bench.add(first);
  EXPECT_EQ(n_computed(bench), 100);
  bench.add(again(first, 2));
  EXPECT_EQ(n_computed(bench), 4) << "6 blocks of 16 are there";
  EXPECT_EQ(bench.heard[2].n_cached_tokens, 96);
  GenerateRequest longer = first;
  longer.prompt_ids.resize(70);
  longer.prompt_ids.resize(120, 3);
  bench.add(longer);
  EXPECT_EQ(n_computed(bench), 120 - 64);
  const PrefixCacheCounts& counts = bench.scheduler.prefix_cache_counts();
  EXPECT_EQ(counts.n_queried, 100U + 100U + 120U);
  EXPECT_EQ(counts.n_hit, 96U + 64U);
  EXPECT_EQ(counts.n_cached_prompt, 96U + 64U);
  bench.run_to_the_end();
  EXPECT_LT(bench.scheduler.n_free_blocks(), bench.n_blocks) << "they stay cached";
  EXPECT_EQ(bench.scheduler.n_running_blocks(), 0);
}

TEST(SchedulerPrefix, TheLastTokenIsAlwaysComputed) {
  for (const int32_t max_new_tokens : {0, 3}) {
    Bench bench(wide_config());
    bench.add(request_of(64, max_new_tokens, 1));
    bench.run();
    bench.add(again(request_of(64, max_new_tokens, 1), 2));
    EXPECT_EQ(n_computed(bench), 16) << "a block at least: nothing is written to a shared one";
    bench.run_to_the_end();
  }
}

TEST(SchedulerPrefix, OffItFindsNothing) {
  SchedulerConfig config = wide_config();
  config.prefix_cache = false;
  Bench bench(config);
  for (uint64_t seed = 1; seed <= 3; ++seed) bench.add(again(request_of(100, 5, 1), seed));
  EXPECT_EQ(n_computed(bench), 300);
  EXPECT_EQ(bench.scheduler.prefix_cache_counts().n_queried, 0U);
  EXPECT_EQ(bench.scheduler.n_free_blocks(), bench.n_blocks);
  bench.run_to_the_end();
}

// An answer's tokens are the next turn's prompt.
TEST(SchedulerPrefix, AChatsNextTurnFindsTheAnswer) {
  for (const int32_t n_ahead : {0, 1}) {
    SchedulerConfig config = wide_config();
    config.n_plans_ahead = n_ahead;
    Bench bench(config);
    bench.add(request_of(30, 40, 1));
    bench.run();
    GenerateRequest next = request_of(30, 5, 1);
    const auto& answer = bench.heard[1].token_ids;
    next.prompt_ids.insert(next.prompt_ids.end(), answer.begin(), answer.end());
    next.prompt_ids.insert(next.prompt_ids.end(), 10, 4);
    bench.add(next);
    // 69 tokens of the first are in KV: its last one was not fed back.
    EXPECT_EQ(n_computed(bench), 80 - 64);
    bench.run_to_the_end();
  }
}

// n choices, and whoever else asks the same at once.
TEST(SchedulerPrefix, EqualPromptsAtOnceAreComputedOnce) {
  for (const int32_t n_stages : {1, 2, 3}) {
    SchedulerConfig config = wide_config();
    config.n_stages = n_stages;
    config.n_plans_ahead = 1;
    Bench bench(config, /*kv_blocks=*/100);
    GenerateRequest request = request_of(250, 6, 1);
    for (request.choice = 0; request.choice < 4; ++request.choice) bench.add(request);
    EXPECT_EQ(n_computed(bench), 250 + 3 * (250 - 240));
    EXPECT_EQ(bench.scheduler.prefix_cache_counts().n_cached_prompt, 3U * 240U);
    bench.run_to_the_end();
  }
}

TEST(SchedulerPrefix, OthersPassThoseThatWaitForAPrefix) {
  Bench bench(wide_config());
  bench.add(request_of(40, 5, 1));
  bench.add(again(request_of(40, 5, 1), 2));
  bench.add(request_of(20, 5, 3));
  const std::optional<StepPlan> plan = bench.scheduler.plan_step();
  ASSERT_TRUE(plan);
  EXPECT_EQ(fake::ids_of(*plan), (std::vector<RequestId>{1, 3}));
  bench.answer(*plan);
  const std::optional<StepPlan> next = bench.scheduler.plan_step();
  ASSERT_TRUE(next);
  EXPECT_EQ(fake::ids_of(*next), (std::vector<RequestId>{1, 3, 2}));
  bench.answer(*next);
  bench.run_to_the_end();
}

// Who waits for a prefix goes on by himself when the one that computed it is gone.
TEST(SchedulerPrefix, AFollowerGoesOnWhenItsLeaderIsCancelled) {
  Bench bench(wide_config());
  bench.add(request_of(200, 5, 1));
  bench.add(again(request_of(200, 5, 1), 2));
  bench.answer(*bench.scheduler.plan_step());
  bench.scheduler.cancel(1);
  EXPECT_EQ(n_computed(bench), 200 - 64) << "what the first chunk gave is there";
  bench.expect_undisturbed(2);
  bench.expect_idle();
}

TEST(SchedulerPrefix, WhatWasCancelledInFlightIsCached) {
  Bench bench(wide_config());
  bench.add(request_of(60, 5, 1));
  const StepPlan plan = *bench.scheduler.plan_step();
  bench.scheduler.cancel(1);
  bench.answer(plan);
  bench.add(again(request_of(60, 5, 1), 2));
  EXPECT_EQ(n_computed(bench), 60 - 48);
  bench.expect_undisturbed(2);
}

TEST(SchedulerPrefix, SaltAdapterAndWeightsKeepRequestsApart) {
  const auto on = [](uint64_t generation) {
    return std::make_shared<ServedWeights>(ServedWeights{.generation = generation});
  };
  GenerateRequest first = request_of(50, 3, 1);
  first.weights = on(1);
  GenerateRequest salted = first;
  salted.cache_salt = "a";
  GenerateRequest other_salt = first;
  other_salt.cache_salt = "b";
  GenerateRequest adapted = first;
  adapted.adapter_id = 1;
  GenerateRequest other_model = first;
  other_model.model_id = 1;
  GenerateRequest newer = first;
  newer.weights = on(2);
  Bench bench(wide_config());
  for (const GenerateRequest& request : {first, salted, other_salt, adapted, other_model, newer}) {
    bench.add(request);  // all at once: none waits for another, either
  }
  EXPECT_EQ(n_computed(bench), 6 * 50);
  for (const GenerateRequest& request : {first, salted, other_salt, adapted, other_model, newer}) {
    bench.add(again(request, 7));
    EXPECT_EQ(n_computed(bench), 2);
  }
  bench.run_to_the_end();
  bench.scheduler.forget_generation(1);
  bench.add(again(first, 8));
  bench.add(again(newer, 8));
  EXPECT_EQ(n_computed(bench), 50 + 2);
  bench.run_to_the_end();
}

// Log-probabilities of the prompt, and traces, need every token computed.
TEST(SchedulerPrefix, WhatWantsEveryTokenGetsIt) {
  Bench bench(wide_config());
  bench.add(request_of(100, 3, 1));
  bench.run();
  GenerateRequest wants_logprobs = again(request_of(100, 3, 1), 2);
  wants_logprobs.want_prompt_logprobs = true;
  bench.add(wants_logprobs);
  EXPECT_EQ(n_computed(bench), 100);
  GenerateRequest traced = again(request_of(100, 3, 1), 3);
  traced.trace = true;
  bench.add(traced);
  EXPECT_EQ(n_computed(bench), 100);
  GenerateRequest wants_logits = again(request_of(100, 3, 1), 4);
  wants_logits.want_last_logits = true;
  bench.add(wants_logits);
  EXPECT_EQ(n_computed(bench), 4);
  EXPECT_EQ(bench.scheduler.prefix_cache_counts().n_hit, 96U);
  bench.run_to_the_end();
}

TEST(SchedulerPrefix, APreemptedSequenceFindsItsBlocks) {
  SchedulerConfig config = wide_config();
  config.max_slots = 2;
  Bench bench(config, /*kv_blocks=*/9);
  bench.add(request_of(16, 90, 1));
  bench.add(request_of(60, 50, 2));
  EXPECT_LT(n_computed(bench), 16 + 2 * 60 - 30);
  EXPECT_EQ(bench.scheduler.n_preemptions(), 1U);
  bench.run_to_the_end();
}

TEST(SchedulerPrefix, CachedBlocksAreGivenAwayWhenOthersNeedThem) {
  Bench bench(wide_config(), /*kv_blocks=*/8);
  bench.add(request_of(100, 10, 1));
  bench.run();
  EXPECT_LE(bench.scheduler.n_free_blocks(), 2);
  EXPECT_EQ(bench.scheduler.n_unheld_blocks(), 8);
  bench.add(request_of(90, 10, 2));
  EXPECT_EQ(n_computed(bench), 90);
  EXPECT_EQ(bench.scheduler.n_preemptions(), 0U);
  bench.add(again(request_of(100, 10, 1), 3));
  EXPECT_EQ(n_computed(bench), 100 - 16) << "its end went first";
  bench.run_to_the_end();
}

TEST(SchedulerPrefix, SharedBlocksAreNeededOnce) {
  SchedulerConfig config = wide_config();
  Bench bench(config, /*kv_blocks=*/16);
  for (uint64_t seed = 1; seed <= 4; ++seed) bench.add(again(request_of(120, 4, 1), seed));
  bench.answer(*bench.scheduler.plan_step());
  bench.answer(*bench.scheduler.plan_step());
  ASSERT_TRUE(bench.scheduler.plan_step());
  EXPECT_EQ(bench.scheduler.n_running(), 4) << "each alone has 8 of the 16 blocks";
  EXPECT_LE(bench.scheduler.n_running_blocks(), 7 + 4);
}

TEST(SchedulerPrefix, IsKeptOverALossWithTheKvAndNotWithoutIt) {
  for (const bool kv_kept : {false, true}) {
    Bench bench(wide_config());
    bench.add(request_of(100, 3, 1));
    bench.run();
    bench.add(request_of(64, 30, 2));
    for (int i = 0; i < 4; ++i) bench.answer(*bench.scheduler.plan_step());
    bench.lose();
    bench.up(kv_kept);
    bench.add(again(request_of(100, 3, 1), 3));
    EXPECT_EQ(n_computed(bench), kv_kept ? 4 : 64 + 100);
    bench.run_to_the_end();
  }
}

TEST(SchedulerPrefix, IsCarriedToTheNextCoordinator) {
  Bench bench(wide_config());
  GenerateRequest of_old_weights = request_of(40, 3, 2);
  of_old_weights.weights = std::make_shared<ServedWeights>(ServedWeights{.generation = 1});
  bench.add(of_old_weights);
  bench.run();
  bench.scheduler.forget_generation(1);  // so that the next coordinator's numbers are others
  bench.add(request_of(100, 3, 1));
  bench.run();
  GenerateRequest running = request_of(100, 30, 1);
  running.prompt_ids.resize(140, 9);
  const RequestId id = bench.add(running);
  for (int i = 0; i < 3; ++i) bench.answer(*bench.scheduler.plan_step());
  bench.scheduler.rest();
  SchedulerState state = bench.scheduler.state();
  bench.scheduler = Scheduler(wide_config());
  bench.scheduler.restore(std::move(state));
  bench.ranks->relaunch();
  bench.scheduler.group_up(2, bench.n_blocks, true, bench.events);
  EXPECT_EQ(n_computed(bench), 0);
  GenerateRequest next = running;
  const auto& answer = bench.heard[id].token_ids;
  next.prompt_ids.insert(next.prompt_ids.end(), answer.begin(), answer.end());
  bench.add(next);
  EXPECT_EQ(n_computed(bench), 170 - 160) << "blocks from before the handover and from after it";
  bench.run_to_the_end();
}

// Nearly all hashes are equal: whatever is found is what was asked for.
TEST(SchedulerPrefix, CollidingHashesChangeNoToken) {
  SchedulerConfig config = wide_config();
  config.perturbation.colliding_prefixes = true;
  Bench bench(config);
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    bench.add(again(request_of(40, 20, seed % 7), seed));
    if (seed % 3 == 0) bench.run();
  }
  bench.run_to_the_end();
  EXPECT_GT(bench.scheduler.prefix_cache_counts().n_hit, 0U);
}

}  // namespace
}  // namespace trireme
