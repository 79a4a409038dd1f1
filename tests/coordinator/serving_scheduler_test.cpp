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

// Two blocks for 20 tokens, then 21 and so on; shared ones are full.
TEST(Scheduler, TellsHowMuchOfTheRunningBlocksIsEmpty) {
  Bench bench(small_config());
  EXPECT_EQ(bench.scheduler.kv_fragmentation(), 0.0);
  bench.add(request_of(20, 4));
  bench.plan_all();
  EXPECT_EQ(bench.scheduler.kv_fragmentation(), 12.0 / 32);
  bench.answer_oldest();
  EXPECT_EQ(bench.scheduler.kv_fragmentation(), 11.0 / 32);
  bench.run();
  EXPECT_EQ(bench.scheduler.kv_fragmentation(), 0.0);
}

TEST(Scheduler, RefusesWhatCanNeverBeServed) {
  const SchedulerConfig config = small_config();
  const auto refusal = [&](const GenerateRequest& request, int32_t n_blocks = 0) {
    const std::optional<Error> error = Scheduler::refuse(config, n_blocks, request);
    return error ? error->param + ": " + error->message : "";
  };
  EXPECT_EQ(refusal(request_of(200, 56)), "");
  EXPECT_EQ(refusal(request_of(200, 57)),
            "max_tokens: the prompt has 200 tokens and max_tokens is 57; together they must not "
            "exceed the context length of 256");
  EXPECT_EQ(refusal(request_of(256, 0)), "");
  EXPECT_EQ(refusal(request_of(257, 0)).substr(0, 7), "prompt:");
  EXPECT_EQ(refusal(request_of(0, 1)), "prompt: the prompt has no tokens; at least 1 is needed");
  EXPECT_EQ(refusal(request_of(1, -1)), "max_tokens: max_tokens is -1; it must be at least 0");
  // 16 + 17 - 1 tokens are ever in KV: exactly two blocks.
  EXPECT_EQ(refusal(request_of(16, 17), 2), "");
  EXPECT_NE(refusal(request_of(16, 18), 2), "");
  GenerateRequest bad_token = request_of(4, 4);
  bad_token.prompt_ids[2] = fake::kVocabSize;
  EXPECT_EQ(refusal(bad_token), "prompt: prompt holds token id 97; the vocabulary has ids 0 to 96");
  bad_token.prompt_ids[2] = kTokenFromSlot;
  EXPECT_NE(refusal(bad_token), "");
  GenerateRequest many_logprobs = request_of(4, 4);
  many_logprobs.n_logprobs = 98;
  EXPECT_EQ(refusal(many_logprobs), "logprobs: logprobs is 98; it must be between 0 and 97");
}

TEST(Scheduler, PlansNothingBeforeTheGroupIsUp) {
  Scheduler scheduler(small_config());
  std::vector<SequenceEvent> events;
  scheduler.add(make_sequence(1, request_of(4, 4)), events);
  EXPECT_FALSE(scheduler.plan_step());
  scheduler.group_up(1, 8, false, events);
  const std::optional<StepPlan> plan = scheduler.plan_step();
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->epoch, 1U);
  EXPECT_EQ(plan->step_id, 1U);
}

TEST(Scheduler, RequestTooLargeForTheGroupThatCameUpEndsWithAnError) {
  Scheduler scheduler(small_config());
  std::vector<SequenceEvent> events;
  scheduler.add(make_sequence(1, request_of(100, 4)), events);
  scheduler.add(make_sequence(2, request_of(10, 4)), events);
  EXPECT_TRUE(events.empty());
  scheduler.group_up(1, 4, false, events);
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0].id, 1U);
  EXPECT_EQ(events[0].event.finish, FinishReason::kError);
  EXPECT_EQ(scheduler.n_waiting(), 1);
}

TEST(Scheduler, PrefillsInChunksAndTellsBlocksOnce) {
  Bench bench(small_config());
  bench.add(request_of(50, 3));
  std::vector<SequencePlan> parts;
  while (const std::optional<StepPlan> plan = bench.scheduler.plan_step()) {
    ASSERT_EQ(plan->sequences.size(), 1U);
    parts.push_back(plan->sequences[0]);
    bench.answer(*plan);
  }
  ASSERT_EQ(parts.size(), 5U);
  const std::vector<int32_t> starts = {0, 24, 48, 50, 51};
  const std::vector<size_t> sizes = {24, 24, 2, 1, 1};
  const std::vector<size_t> n_new_blocks = {2, 1, 1, 0, 0};
  const std::vector<bool> samples = {false, false, true, true, true};
  const std::vector<int32_t> output_indices = {0, 0, 0, 1, 2};
  for (size_t i = 0; i < parts.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(parts[i].start_position, starts[i]);
    EXPECT_EQ(parts[i].input_ids.size(), sizes[i]);
    EXPECT_EQ(parts[i].new_blocks.size(), n_new_blocks[i]);
    EXPECT_EQ(parts[i].sample, samples[i]);
    EXPECT_EQ(parts[i].output_index, output_indices[i]);
    EXPECT_EQ(parts[i].reset_slot, i == 0);
  }
  bench.expect_undisturbed(1);
  bench.expect_idle();
}

// The mask of a token is made from the one before it, so nothing goes on from a plan in flight with
// such a sequence; others do as ever.
TEST(Scheduler, NoPlanIsAheadOfAGrammar) {
  SchedulerConfig config = small_config();
  config.n_plans_ahead = 1;
  Bench bench(config);
  bench.add(request_of(4, 30, 1));
  const auto plans_at_once = [&bench] {
    bench.plan_all();
    const size_t n = bench.in_flight.size();
    bench.answer_oldest();
    return n;
  };
  plans_at_once();
  EXPECT_EQ(plans_at_once(), 2U);
  GenerateRequest guided = request_of(4, 30, 2);
  guided.grammar = {.tag = "fake", .text = "6"};
  const RequestId id = bench.add(guided);
  while (bench.heard[id].token_ids.size() < 2) plans_at_once();
  while (bench.heard[id].finish == FinishReason::kNone) {
    bench.plan_all([](const StepPlan& plan) {
      ASSERT_EQ(plan.sequences.size(), 2U);
      for (const SequencePlan& part : plan.sequences) {
        EXPECT_EQ(part.masked, part.request_id == 2);
        EXPECT_NE(part.input_ids[0], kTokenFromSlot);
      }
    });
    EXPECT_EQ(bench.in_flight.size(), 1U);
    bench.answer_oldest();
  }
  EXPECT_EQ(bench.heard[id].finish, FinishReason::kStop) << "though it ignores ends";
  EXPECT_EQ(bench.heard[id].token_ids.size(), 7U);
  EXPECT_EQ(plans_at_once(), 2U);
  while (!bench.in_flight.empty()) bench.answer_oldest();
  bench.run_to_the_end();
}

TEST(Scheduler, DecodesComeFirstAndPromptsFillTheBudget) {
  Bench bench(small_config());
  bench.add(request_of(4, 40, 1));
  bench.add(request_of(4, 40, 2));
  bench.answer(*bench.scheduler.plan_step());
  bench.add(request_of(100, 4, 3));
  const std::optional<StepPlan> plan = bench.scheduler.plan_step();
  ASSERT_TRUE(plan);
  EXPECT_EQ(ids_of(*plan), (std::vector<RequestId>{1, 2, 3}));
  EXPECT_EQ(plan->sequences[0].input_ids.size(), 1U);
  EXPECT_EQ(plan->sequences[2].input_ids.size(), 24U);
}

TEST(Scheduler, SplitsTheRunningSetOverThePipeline) {
  SchedulerConfig config = small_config();
  config.n_stages = 2;
  Bench bench(config);
  for (uint64_t seed = 1; seed <= 4; ++seed) bench.add(request_of(4, 20, seed));
  bench.answer(*bench.scheduler.plan_step());
  const std::optional<StepPlan> a = bench.scheduler.plan_step();
  const std::optional<StepPlan> b = bench.scheduler.plan_step();
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->sequences.size(), 2U);
  EXPECT_EQ(b->sequences.size(), 2U);
  std::vector<RequestId> all = ids_of(*a);
  for (const RequestId id : ids_of(*b)) all.push_back(id);
  EXPECT_EQ(all, (std::vector<RequestId>{1, 2, 3, 4}));
  EXPECT_FALSE(bench.scheduler.plan_step()) << "two stages take two plans";
  bench.answer(*a);
  bench.answer(*b);
  bench.run();
  for (RequestId id = 1; id <= 4; ++id) bench.expect_undisturbed(id);
}

TEST(Scheduler, APromptGoesThroughThePipelineInParts) {
  SchedulerConfig config = small_config();
  config.max_batch_tokens = config.max_prefill_tokens = 512;
  config.context_length = 8192;
  config.n_stages = 2;
  Bench bench(config, 512);
  bench.add(request_of(1500, 2, 1));
  bench.add(request_of(548, 2, 2));
  std::vector<int> sizes;
  while (bench.heard[1].finish == FinishReason::kNone) {
    bench.plan_all([&](const StepPlan& plan) { sizes.push_back(plan.n_tokens()); });
    if (HasFatalFailure()) return;
    if (sizes.size() == 2) {
      EXPECT_EQ(ids_of(bench.in_flight[0]), ids_of(bench.in_flight[1])) << "of the first prompt";
    }
    bench.answer_oldest();
  }
  EXPECT_EQ(sizes[0], 128) << "of 2048 tokens that wait";
  EXPECT_EQ(sizes[1], 128) << "a sixteenth of the rest, in whole blocks";
  EXPECT_EQ(sizes[9], 80);
  EXPECT_EQ(sizes[10], 64) << "the smallest part";
  while (!bench.in_flight.empty()) bench.answer_oldest();
  bench.run_to_the_end();
}

SchedulerConfig one_ahead() {
  SchedulerConfig config = small_config();
  config.n_plans_ahead = 1;
  return config;
}

TEST(Scheduler, PlansAheadNameTheTokenBySlot) {
  Bench bench(one_ahead());
  bench.add(request_of(10, 3));
  const StepPlan prompt = *bench.scheduler.plan_step();
  EXPECT_TRUE(prompt.feed_samples);
  const std::optional<StepPlan> ahead = bench.scheduler.plan_step();
  ASSERT_TRUE(ahead);
  const SequencePlan& part = ahead->sequences[0];
  EXPECT_EQ(part.input_ids, std::vector<int32_t>{kTokenFromSlot});
  EXPECT_EQ(part.start_position, 10);
  EXPECT_EQ(part.output_index, 1);
  EXPECT_TRUE(part.sample);
  EXPECT_FALSE(bench.scheduler.plan_step()) << "one plan ahead, not two";
  bench.answer(prompt);
  const std::optional<StepPlan> last = bench.scheduler.plan_step();
  ASSERT_TRUE(last);
  bench.answer(*ahead);
  EXPECT_FALSE(bench.scheduler.plan_step()) << "the last token is not fed back";
  bench.answer(*last);
  bench.expect_undisturbed(1);
  bench.expect_idle();
}

TEST(Scheduler, AStepAfterTheLastTokenIsInVain) {
  Bench bench(one_ahead());
  GenerateRequest request = request_of(10, 40);
  request.stop_token_ids = {fake::undisturbed(request).token_ids[0]};
  bench.add(request);
  const StepPlan prompt = *bench.scheduler.plan_step();
  const StepPlan in_vain = *bench.scheduler.plan_step();
  bench.answer(prompt);
  EXPECT_EQ(bench.heard[1].finish, FinishReason::kStop);
  EXPECT_FALSE(bench.scheduler.cancel(1)) << "its last event was told";
  EXPECT_LT(bench.scheduler.n_unheld_blocks(), bench.n_blocks) << "the ranks still write there";
  EXPECT_FALSE(bench.scheduler.plan_step());
  bench.answer(in_vain);
  bench.expect_undisturbed(1);
  bench.expect_idle();
}

TEST(Scheduler, NoPlanAheadWhileAPromptWaits) {
  Bench bench(one_ahead());
  bench.add(request_of(4, 40, 1));
  bench.answer(*bench.scheduler.plan_step());
  const StepPlan decode = *bench.scheduler.plan_step();
  bench.add(request_of(30, 4, 2));
  EXPECT_FALSE(bench.scheduler.plan_step()) << "the prompt would have to wait for it";
  bench.answer(decode);
  EXPECT_EQ(ids_of(*bench.scheduler.plan_step()), (std::vector<RequestId>{1, 2}));
}

// Two stages, two sets of sequences, each planned before its last result is known.
TEST(Scheduler, PlansAheadKeepTheSetsApart) {
  SchedulerConfig config = one_ahead();
  config.n_stages = 2;
  Bench bench(config);
  for (uint64_t seed = 1; seed <= 3; ++seed) bench.add(request_of(4, 20, seed));
  bench.answer(*bench.scheduler.plan_step());
  const std::deque<StepPlan>& in_flight = bench.in_flight;
  for (int i = 0; i < 12; ++i) {
    bench.plan_all();
    ASSERT_EQ(in_flight.size(), 3U);
    EXPECT_EQ(ids_of(in_flight[0]), ids_of(in_flight[2]));
    EXPECT_EQ(in_flight[0].sequences.size() + in_flight[1].sequences.size(), 3U);
    bench.answer_oldest();
  }
}

// The youngest is always in flight when plans are made ahead: it must not keep its blocks for that.
TEST(Scheduler, TheYoungestYieldsItsBlocksThoughInFlight) {
  Bench bench(one_ahead(), /*n_blocks=*/6);
  bench.add(request_of(28, 40, 1));
  bench.add(request_of(20, 40, 2));
  int n_plans_without = 0;
  do {
    bench.plan_all([&](const StepPlan& plan) {
      n_plans_without = ids_of(plan)[0] == 1 ? 0 : n_plans_without + 1;
      EXPECT_LE(n_plans_without, 2) << "the older one waits for the younger";
    });
    if (HasFatalFailure()) return;
    bench.answer_oldest();
    EXPECT_EQ(bench.heard[2].finish, FinishReason::kNone) << "the older one ends first";
  } while (bench.heard[1].finish == FinishReason::kNone);
  EXPECT_GT(bench.scheduler.n_preemptions(), 0U);
}

TEST(Scheduler, YoungestGoesBackWhenBlocksRunOut) {
  Bench bench(small_config(), /*n_blocks=*/6);
  bench.add(request_of(20, 40, 1));  // grows to 4 blocks
  bench.add(request_of(20, 40, 2));
  bench.run();
  EXPECT_GT(bench.scheduler.n_preemptions(), 0U);
  bench.expect_undisturbed(1);
  bench.expect_undisturbed(2);
  bench.expect_idle();
  // The older one never waited for the younger: it ended first.
  EXPECT_EQ(bench.heard[1].finish, FinishReason::kLength);
}

TEST(Scheduler, AnOlderRequestIsNotOvertaken) {
  Bench bench(small_config(), /*n_blocks=*/8);
  bench.add(request_of(64, 40, 1));
  bench.add(request_of(64, 4, 2));  // does not fit beside the first
  bench.add(request_of(4, 4, 3));   // would
  const std::optional<StepPlan> plan = bench.scheduler.plan_step();
  EXPECT_EQ(ids_of(*plan), (std::vector<RequestId>{1}));
  bench.answer(*plan);
  bench.run();
  for (RequestId id = 1; id <= 3; ++id) bench.expect_undisturbed(id);
}

TEST(Scheduler, LogprobTargetsAreTheNextPromptTokens) {
  GenerateRequest request = request_of(30, 4, 5);
  request.want_prompt_logprobs = true;
  Bench bench(small_config());
  bench.add(request);
  const std::optional<StepPlan> first = bench.scheduler.plan_step();
  const std::vector<int32_t>& ids = request.prompt_ids;
  EXPECT_EQ(first->sequences[0].logprob_targets,
            std::vector<int32_t>(ids.begin() + 1, ids.begin() + 25));
  bench.answer(*first);
  const std::optional<StepPlan> second = bench.scheduler.plan_step();
  std::vector<int32_t> rest(ids.begin() + 25, ids.end());
  rest.push_back(-1);
  EXPECT_EQ(second->sequences[0].logprob_targets, rest);
}

TEST(Scheduler, PromptOnly) {
  GenerateRequest request = request_of(30, 0);
  request.want_prompt_logprobs = true;
  request.want_last_logits = true;
  Bench bench(small_config());
  bench.add(request);
  const std::optional<StepPlan> first = bench.scheduler.plan_step();
  EXPECT_FALSE(first->sequences[0].want_logits);
  bench.answer(*first);
  const std::optional<StepPlan> second = bench.scheduler.plan_step();
  EXPECT_TRUE(second->sequences[0].want_logits);
  EXPECT_FALSE(second->sequences[0].sample);
  bench.answer(*second);
  bench.expect_undisturbed(1);
  bench.expect_idle();
}

TEST(Scheduler, StopsAtEosAndStopTokens) {
  Bench bench(small_config());
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    GenerateRequest request = request_of(5, 100, seed);
    request.ignore_eos = false;
    request.stop_token_ids = {5, 6};
    bench.add(request);
  }
  bench.run();
  int n_stopped = 0;
  for (RequestId id = 1; id <= 30; ++id) {
    bench.expect_undisturbed(id);
    n_stopped += bench.heard[id].finish == FinishReason::kStop ? 1 : 0;
  }
  EXPECT_GT(n_stopped, 10);
}

TEST(Scheduler, CancelFreesAtOnceOrWithTheResult) {
  Bench bench(small_config());
  bench.add(request_of(20, 10, 1));
  bench.add(request_of(20, 10, 2));
  const std::optional<StepPlan> plan = bench.scheduler.plan_step();
  const int32_t n_free = bench.scheduler.n_unheld_blocks();
  EXPECT_TRUE(bench.scheduler.cancel(1));
  EXPECT_FALSE(bench.scheduler.cancel(1));
  EXPECT_EQ(bench.scheduler.n_unheld_blocks(), n_free) << "the ranks may still write there";
  bench.answer(*plan);
  EXPECT_EQ(bench.scheduler.n_unheld_blocks(), n_free + 2);
  EXPECT_TRUE(bench.scheduler.cancel(2));
  bench.expect_idle();
  EXPECT_TRUE(bench.heard[1].token_ids.empty());
  EXPECT_FALSE(bench.scheduler.cancel(3));
}

TEST(Scheduler, TracedPlanEndsWithTheLastRanksAnswer) {
  SchedulerConfig config = small_config();
  config.n_ranks = 3;
  Bench bench(config);
  GenerateRequest request = request_of(4, 1);
  request.trace = true;
  bench.add(request);
  const std::optional<StepPlan> plan = bench.scheduler.plan_step();
  ASSERT_TRUE(plan->trace);
  StepResult sampler = bench.ranks->run(*plan);
  sampler.world_rank = 2;
  std::vector<SequenceEvent> events;
  for (int32_t rank = 0; rank < 3; ++rank) {
    StepResult result = sampler;
    if (rank != 2) result.sequences.clear();
    result.world_rank = rank;
    result.trace = {{.layer = rank, .op = 0, .unit = 0, .hash = 5}};
    EXPECT_TRUE(events.empty());
    EXPECT_EQ(bench.scheduler.apply(std::move(result), events).completed, rank == 2);
  }
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0].event.traces.size(), 3U);
  EXPECT_EQ(events[0].event.token_ids.size(), 1U);
}

TEST(SchedulerDeathTest, AResultThatIsNotOfItsPlanAborts) {
  Bench bench(small_config());
  bench.add(request_of(4, 4));
  StepResult result = bench.ranks->run(*bench.scheduler.plan_step());
  StepResult other = result;
  other.sequences[0].request_id = 9;
  EXPECT_DEATH(bench.scheduler.apply(std::move(other), bench.events), "another request");
  other = result;
  other.sequences.push_back(other.sequences[0]);
  EXPECT_DEATH(bench.scheduler.apply(std::move(other), bench.events), "more or fewer");
  result.step_id = 2;
  EXPECT_DEATH(bench.scheduler.apply(std::move(result), bench.events), "not in flight");
}

}  // namespace
}  // namespace trireme
