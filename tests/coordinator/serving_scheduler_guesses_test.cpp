// Guessed tokens: fewer steps, the same tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/serving/scheduler.h"
#include "tests/coordinator/serving_bench.h"
#include "tests/coordinator/serving_fake_drafter.h"

namespace trireme {
namespace {

using fake::Bench;
using fake::oracle_maker;
using fake::request_of;
using fake::small_config;

SchedulerConfig guessing(double errs, int32_t most = 4) {
  SchedulerConfig config = small_config();
  config.n_plans_ahead = 1;
  config.make_drafter = oracle_maker(3, errs);
  config.max_guesses = most;
  return config;
}

int run_counting(Bench& bench) {
  int n_plans = 0;
  while (const std::optional<StepPlan> plan = bench.scheduler.plan_step()) {
    bench.answer(*plan);
    ++n_plans;
  }
  return n_plans;
}

TEST(SchedulerGuesses, RightOnesSaveSteps) {
  Bench bench(guessing(0.0));
  bench.add(request_of(20, 101));
  const int n_plans = run_counting(bench);
  EXPECT_LT(n_plans, 35) << "1 for the prompt, and some 100 tokens at up to 5 a step";
  const GuessCounts& counts = bench.scheduler.guess_counts();
  EXPECT_EQ(counts.n_guessed, counts.n_right);
  EXPECT_EQ(static_cast<int>(counts.n_right), 101 - n_plans);
  bench.run_to_the_end();
}

TEST(SchedulerGuesses, WrongOnesChangeNothingAndBecomeFew) {
  Bench bench(guessing(1.0));
  bench.add(request_of(20, 100));
  const int n_plans = run_counting(bench);
  const GuessCounts& counts = bench.scheduler.guess_counts();
  EXPECT_LT(counts.n_right, 5U) << "by luck";
  EXPECT_EQ(n_plans + static_cast<int>(counts.n_right), 100);
  EXPECT_LT(counts.n_guessed, 110U) << "one a step, after the first";
  bench.run_to_the_end();
}

TEST(SchedulerGuesses, NoMoreRowsThanCostLittle) {
  SchedulerConfig config = guessing(0.0, 15);
  config.max_slots = 8;
  config.max_batch_tokens = 256;
  Bench bench(config, 256);
  for (int i = 0; i < 3; ++i) bench.add(request_of(4, 60, 10U + i));
  size_t most = 0;
  while (const std::optional<StepPlan> plan = bench.scheduler.plan_step()) {
    size_t n_rows = 0;
    for (const SequencePlan& part : plan->sequences)
      n_rows += part.n_guesses > 0 ? part.input_ids.size() : 0;
    most = std::max(most, n_rows);
    bench.answer(*plan);
  }
  EXPECT_LE(most, static_cast<size_t>(kMostRowsWithGuesses));
  EXPECT_GE(most, 12U);
  bench.run_to_the_end();
}

TEST(SchedulerGuesses, ManySequencesArePlannedAheadInstead) {
  SchedulerConfig config = guessing(0.0);
  config.max_slots = 12;
  config.max_batch_tokens = 64;
  Bench bench(config, 256);
  for (int i = 0; i < 12; ++i) bench.add(request_of(2, 30, 10U + i));
  bench.plan_all([](const StepPlan& plan) {
    for (const SequencePlan& part : plan.sequences) EXPECT_EQ(part.n_guesses, 0);
  });
  bench.answer_oldest();
  bench.plan_all();
  EXPECT_EQ(bench.in_flight.size(), 2U);
  while (!bench.in_flight.empty()) bench.answer_oldest();
  bench.run_to_the_end();
}

TEST(SchedulerGuesses, AnAnswerThatEndsAmongRightGuessesEndsThere) {
  for (uint64_t seed = 1; seed < 20; ++seed) {
    Bench bench(guessing(0.0));
    GenerateRequest request = request_of(10, 60, seed);
    request.ignore_eos = false;
    request.stop_token_ids = {fake::undisturbed(request).token_ids[seed % 7]};
    bench.add(request);
    bench.run_to_the_end();
  }
}

TEST(SchedulerGuesses, NothingIsGuessedBehindAPromptThatDrawsNothing) {
  Bench bench(guessing(0.0));
  GenerateRequest request = request_of(25, 0);
  request.want_embedding = true;
  bench.add(request);
  const std::optional<StepPlan> first = bench.scheduler.plan_step();
  EXPECT_FALSE(first->sequences[0].want_hidden);
  EXPECT_FALSE(bench.scheduler.plan_step());
  bench.answer(*first);
  const std::optional<StepPlan> second = bench.scheduler.plan_step();
  EXPECT_EQ(second->sequences[0].input_ids.size(), 1U) << "as a stream's next token would come";
  EXPECT_EQ(second->sequences[0].n_guesses, 0);
  EXPECT_TRUE(second->sequences[0].want_hidden);
  EXPECT_FALSE(second->sequences[0].sample);
  bench.answer(*second);
  EXPECT_EQ(bench.heard[1].embedding.size(), 2U);
  bench.run_to_the_end();
}

TEST(SchedulerGuesses, EachTokenIsToldByAnEventOfItsOwn) {
  SchedulerConfig config = guessing(0.0);
  Bench bench(config);
  bench.scheduler.add(make_sequence(1, request_of(5, 20)), bench.events);
  int n_tokens = 0;
  while (const std::optional<StepPlan> plan = bench.scheduler.plan_step()) {
    bench.scheduler.apply(bench.ranks->run(*plan), bench.events);
    for (SequenceEvent& each : std::exchange(bench.events, {})) {
      EXPECT_EQ(each.event.token_ids.size(), 1U);
      EXPECT_EQ(each.event.n_output_tokens, ++n_tokens);
      EXPECT_EQ(each.event.finish != FinishReason::kNone, n_tokens == 20);
    }
  }
  EXPECT_EQ(n_tokens, 20);
}

TEST(SchedulerGuesses, TheyTakeNoBlocksThatOthersWant) {
  SchedulerConfig config = guessing(0.5);
  Bench bench(config, 9);
  for (int i = 0; i < 4; ++i) bench.add(request_of(20, 60, 10U + i));
  bench.run_to_the_end();
}

TEST(SchedulerGuesses, ALossWithGuessesInFlightCostsNoToken) {
  Bench bench(guessing(0.3));
  bench.add(request_of(20, 80));
  for (int i = 0; i < 8; ++i) {
    for (int k = 0; k < 3; ++k) bench.answer(*bench.scheduler.plan_step());
    ASSERT_TRUE(bench.scheduler.plan_step());
    bench.lose();
    bench.up(i % 2 == 0);
  }
  bench.run_to_the_end();
}

}  // namespace
}  // namespace trireme
