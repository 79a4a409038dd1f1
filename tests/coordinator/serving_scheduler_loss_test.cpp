#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "coordinator/serving/scheduler.h"
#include "tests/coordinator/serving_bench.h"

namespace trireme {
namespace {

using fake::Bench;
using fake::ids_of;
using fake::request_of;
using fake::small_config;

TEST(SchedulerLoss, PromptLogprobsAcrossChunksPreemptionAndLoss) {
  GenerateRequest request = request_of(60, 20, 5);
  request.want_prompt_logprobs = true;
  request.want_last_logits = true;
  Bench bench(small_config());
  bench.add(request);
  bench.answer(*bench.scheduler.plan_step());
  bench.lose();  // between plans, a third of the prompt known
  bench.up();
  const std::optional<StepPlan> replay = bench.scheduler.plan_step();
  ASSERT_TRUE(replay);
  EXPECT_TRUE(replay->sequences[0].logprob_targets.empty()) << "these 24 were gathered before";
  bench.answer(*replay);
  for (int i = 0; i < 4; ++i) bench.answer(*bench.scheduler.plan_step());
  EXPECT_EQ(bench.heard[1].prompt_logprobs.size(), 59U);
  bench.lose();
  bench.up();
  bench.run();
  bench.expect_undisturbed(1);
}

TEST(SchedulerLoss, ReplayGoesOnAtTheNextOutputIndex) {
  Bench bench(small_config());
  bench.add(request_of(10, 12, 1));
  bench.add(request_of(10, 12, 2));
  for (int i = 0; i < 5; ++i) bench.answer(*bench.scheduler.plan_step());
  const StepPlan lost_plan = *bench.scheduler.plan_step();
  const StepResult late = bench.ranks->run(lost_plan);
  EXPECT_EQ(bench.lose(), 2);
  EXPECT_FALSE(bench.scheduler.plan_step());
  bench.up();
  EXPECT_FALSE(bench.scheduler.apply(StepResult(late), bench.events).completed) << "older epoch";
  const std::optional<StepPlan> replay = bench.scheduler.plan_step();
  EXPECT_EQ(replay->step_id, 1U);
  EXPECT_EQ(replay->sequences[0].input_ids.size(), 15U);
  EXPECT_EQ(replay->sequences[0].output_index, 5);
  bench.answer(*replay);
  bench.run_to_the_end();
}

// A request whose plans kill the group is found and ended; all others get their tokens.
TEST(SchedulerLoss, PoisonIsQuarantinedAndOthersLive) {
  for (const int32_t fatal_position : {0, 9, 10, 13}) {
    SCOPED_TRACE(fatal_position);
    SchedulerConfig config = small_config();
    config.max_slots = 6;
    config.n_stages = 2;
    Bench bench(config);
    for (uint64_t seed = 1; seed <= 6; ++seed) bench.add(request_of(10, 30, seed));
    const RequestId poison = 3;
    int n_lost = 0;
    while (const std::optional<StepPlan> plan = bench.scheduler.plan_step()) {
      const bool fatal = std::any_of(
          plan->sequences.begin(), plan->sequences.end(), [&](const SequencePlan& part) {
            const auto end = part.start_position + static_cast<int32_t>(part.input_ids.size());
            return part.request_id == poison && end > fatal_position;
          });
      if (!fatal) {
        bench.answer(*plan);
        continue;
      }
      ASSERT_LT(++n_lost, 10);
      bench.lose();
      bench.up();
    }
    EXPECT_EQ(n_lost, 2);
    EXPECT_EQ(bench.heard[poison].finish, FinishReason::kError);
    EXPECT_EQ(bench.heard[poison].error,
              "the ranks failed twice while they computed this request; it is not tried again");
    for (RequestId id = 1; id <= 6; ++id)
      if (id != poison) bench.expect_undisturbed(id);
    bench.expect_idle();
  }
}

TEST(SchedulerLoss, SuspectsAreTriedAloneInTurnWithTheOthers) {
  SchedulerConfig config = small_config();
  config.n_stages = 2;
  Bench bench(config);
  bench.add(request_of(10, 30, 1));
  bench.add(request_of(10, 30, 2));
  ASSERT_TRUE(bench.scheduler.plan_step());
  bench.add(request_of(10, 30, 3));
  bench.lose();
  bench.up();
  const std::optional<StepPlan> alone = bench.scheduler.plan_step();
  EXPECT_EQ(ids_of(*alone), (std::vector<RequestId>{1}));
  EXPECT_FALSE(bench.scheduler.plan_step()) << "nothing beside a suspect";
  bench.answer(*alone);
  while (bench.scheduler.n_running() < 3) {
    const std::optional<StepPlan> plan = bench.scheduler.plan_step();
    ASSERT_TRUE(plan);
    bench.answer(*plan);
  }
  bench.run();
  for (RequestId id = 1; id <= 3; ++id) bench.expect_undisturbed(id);
}

// Ranks that were killed from outside, and left their KV in order, blame nobody, however often.
TEST(SchedulerLoss, LossesThatRanksAreNotToBlameForEndNoRequest) {
  Bench bench(small_config());
  bench.add(request_of(10, 12, 1));
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(bench.scheduler.plan_step());
    bench.lose();
    bench.up(/*kv_kept=*/true);
  }
  bench.add(request_of(10, 12, 2));
  EXPECT_EQ(ids_of(*bench.scheduler.plan_step()), (std::vector<RequestId>{1, 2})) << "no suspect";
  bench.lose();
  bench.up();
  bench.run_to_the_end();
}

// Losing a group again and again does not end a request that gets on in between.
TEST(SchedulerLoss, ARequestThatGetsOnIsNotBlamed) {
  Bench bench(small_config());
  bench.add(request_of(10, 40, 1));
  int n_lost = 0;
  for (int i = 1; bench.heard[1].finish == FinishReason::kNone; ++i) {
    const std::optional<StepPlan> plan = bench.scheduler.plan_step();
    ASSERT_TRUE(plan);
    if (i % 5 != 0) {
      bench.answer(*plan);
      continue;
    }
    bench.lose();
    bench.up();
    ++n_lost;
  }
  EXPECT_GT(n_lost, 5);
  bench.expect_undisturbed(1);
}

// The ranks' memory outlived them: only what was in flight is computed again.
TEST(SchedulerLoss, KeptKvIsNotComputedAgain) {
  Bench bench(small_config());
  bench.add(request_of(50, 12, 1));
  bench.add(request_of(10, 12, 2));
  while (bench.heard[1].token_ids.size() < 3) bench.answer(*bench.scheduler.plan_step());
  ASSERT_TRUE(bench.scheduler.plan_step());
  EXPECT_EQ(bench.lose(), 2);
  bench.up(/*kv_kept=*/true);
  int n_resets = 0;
  while (const std::optional<StepPlan> plan = bench.scheduler.plan_step()) {
    for (const SequencePlan& part : plan->sequences) {
      EXPECT_EQ(part.input_ids.size(), 1U);
      if (!part.reset_slot) continue;
      ++n_resets;
      const size_t n_blocks = part.request_id == 1 ? 4 : 1;
      EXPECT_EQ(part.new_blocks.size(), n_blocks) << "the whole block table";
    }
    bench.answer(*plan);
  }
  EXPECT_EQ(n_resets, 2);
  bench.expect_undisturbed(1);
  bench.expect_undisturbed(2);
  bench.expect_idle();
}

TEST(SchedulerLoss, ABetterPriorityTakesTheBlocksThatOthersKeep) {
  Bench bench(small_config(), /*n_blocks=*/8);
  const RequestId from_elsewhere = 1;
  bench.requests[from_elsewhere] = request_of(100, 4, 1);
  bench.requests[from_elsewhere].priority = -1;
  bench.last_id = from_elsewhere;
  bench.add(request_of(60, 12, 2));
  while (bench.heard[2].token_ids.empty()) bench.answer(*bench.scheduler.plan_step());
  bench.lose();
  bench.scheduler.add(make_sequence(from_elsewhere, bench.requests[from_elsewhere]), bench.events);
  bench.up(/*kv_kept=*/true);
  EXPECT_EQ(ids_of(*bench.scheduler.plan_step())[0], from_elsewhere);
  bench.lose();
  bench.up();
  bench.run_to_the_end();
}

// The group is given up for a launch on another layout: no request is to blame, whatever is in
// flight, and plans fit the new pipeline.
TEST(SchedulerLoss, AWantedLossBlamesNobodyAndMayChangeTheLayout) {
  SchedulerConfig config = small_config();
  config.n_stages = 3;
  Bench bench(config);
  for (uint64_t seed = 1; seed <= 3; ++seed) bench.add(request_of(10, 12, seed));
  for (const Layout layout : {Layout{1, 1}, Layout{2, 2}, Layout{1, 1}, Layout{1, 3}}) {
    bench.plan_all();
    EXPECT_EQ(bench.scheduler.group_lost(/*wanted=*/true), 3);
    bench.in_flight.clear();
    bench.scheduler.set_layout(layout);
    bench.up();
    bench.plan_all();
    EXPECT_EQ(bench.scheduler.n_plans_in_flight(), std::min(layout.pp, 2)) << "no suspects";
    while (!bench.in_flight.empty()) bench.answer_oldest();
  }
  bench.run_to_the_end();
}

// Of the sequences that a loss left, those end that can never fit into what smaller ranks hold.
TEST(SchedulerLoss, ASmallerPoolEndsOnlyWhatItCannotHold) {
  Bench bench(small_config());
  bench.add(request_of(10, 60, 1));
  bench.add(request_of(10, 12, 2));
  for (int i = 0; i < 5; ++i) bench.answer(*bench.scheduler.plan_step());
  bench.lose();
  bench.n_blocks = 3;
  bench.up();
  EXPECT_EQ(bench.heard[1].finish, FinishReason::kError);
  EXPECT_EQ(
      bench.heard[1].error,
      "the prompt has 10 tokens and max_tokens is 60; that needs 5 KV blocks and there are 3");
  bench.run();
  bench.expect_undisturbed(2);
  bench.expect_idle();
}

TEST(SchedulerLoss, WaitingSequencesGoOnElsewhere) {
  Bench a(small_config());
  a.add(request_of(10, 12, 1));
  for (int i = 0; i < 5; ++i) a.answer(*a.scheduler.plan_step());
  a.lose();
  Bench b(small_config(), 9);
  b.heard = a.heard;
  b.requests = a.requests;
  for (const Sequence* sequence : a.scheduler.waiting())
    b.scheduler.add(a.scheduler.take(sequence->id), b.events);
  EXPECT_EQ(a.scheduler.n_waiting(), 0);
  EXPECT_EQ(a.scheduler.n_unheld_blocks(), a.n_blocks);
  b.run();
  b.expect_undisturbed(1);
}

}  // namespace
}  // namespace trireme
