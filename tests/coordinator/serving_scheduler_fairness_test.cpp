// Whose turn it is: shares of tenants, and prompts beside streams.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "coordinator/handover/serving_state.h"
#include "coordinator/serving/scheduler.h"
#include "tests/coordinator/serving_bench.h"
#include "tests/coordinator/serving_fake_drafter.h"

namespace trireme {
namespace {

using fake::Bench;
using fake::ids_of;
using fake::request_of;
using fake::small_config;

GenerateRequest of_tenant(const std::string& tenant, int32_t n_prompt, int32_t max_new_tokens,
                          uint64_t seed) {
  GenerateRequest request = request_of(n_prompt, max_new_tokens, seed);
  request.tenant = tenant;
  return request;
}

// A bench that says who began, in order, and what each tenant was served.
struct Shares : Bench {
  explicit Shares(const SchedulerConfig& config, int32_t kv_blocks = 64)
      : Bench(config, kv_blocks) {}

  // False: nothing is left to do.
  bool step() {
    const std::optional<StepPlan> plan = scheduler.plan_step();
    if (!plan) return false;
    for (const SequencePlan& part : plan->sequences) {
      const std::string& tenant = requests[part.request_id].tenant;
      if (part.reset_slot && begun.insert(part.request_id).second) turns.push_back(tenant);
      served[tenant] += static_cast<int64_t>(part.input_ids.size());
    }
    answer(*plan);
    for (const auto& [id, transcript] : heard) {
      const bool ended = transcript.finish != FinishReason::kNone;
      if (ended && std::count(ends.begin(), ends.end(), id) == 0) ends.push_back(id);
    }
    return true;
  }

  std::set<RequestId> begun;
  std::vector<std::string> turns;
  std::vector<RequestId> ends;
  std::map<std::string, int64_t> served;
};

TEST(SchedulerFairness, AQueueOfOneTenantDelaysAnotherByOneTurn) {
  Shares bench(small_config());
  for (uint64_t i = 0; i < 1000; ++i) bench.add(of_tenant("crowd", 20, 10, i));
  for (int i = 0; i < 30; ++i) bench.step();
  bench.turns.clear();
  bench.add(of_tenant("one", 20, 10, 5000));
  while (std::count(bench.turns.begin(), bench.turns.end(), "one") == 0) bench.step();
  EXPECT_LE(bench.turns.size(), 2U) << "one of the crowd may come first: both were served as much";
  bench.run_to_the_end();
}

TEST(SchedulerFairness, ABetterPriorityComesBeforeAnyShare) {
  Shares bench(small_config());
  for (uint64_t i = 0; i < 4; ++i) bench.add(of_tenant("a", 20, 10, i));
  bench.step();
  GenerateRequest later = of_tenant("b", 20, 10, 7);
  bench.add(later);
  later = of_tenant("a", 20, 10, 8);
  later.priority = -1;
  const RequestId urgent = bench.add(later);
  while (bench.begun.count(urgent) == 0) bench.step();
  EXPECT_EQ(std::count(bench.turns.begin(), bench.turns.end(), "b"), 0);
  bench.run_to_the_end();
}

// Long and short requests, many and few at once: while all have some that wait, none is served more
// than what its requests in the slots make of it.
TEST(SchedulerFairness, TenantsThatAlwaysWaitAreServedAlike) {
  SchedulerConfig config = small_config();
  config.max_slots = 3;
  Shares bench(config);
  const std::map<std::string, std::pair<int32_t, int32_t>> shapes = {
      {"long", {100, 40}}, {"short", {5, 5}}, {"", {30, 1}}};
  uint64_t seed = 0;
  for (int i = 0; i < 100; ++i) {
    for (const auto& [tenant, shape] : shapes) {
      const int n = tenant == "short" ? 20 : 1;
      for (int k = 0; k < n; ++k) bench.add(of_tenant(tenant, shape.first, shape.second, ++seed));
    }
  }
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(bench.step());
    int64_t least = bench.served.begin()->second;
    int64_t most = 0;
    for (const auto& [tenant, n] : bench.served) {
      least = std::min(least, n);
      most = std::max(most, n);
    }
    ASSERT_LE(most - least, 4 * 140) << "a request in each slot, and the next one";
  }
  EXPECT_GT(bench.served["short"], 500);
}

// Guesses right for one tenant, and none for others.
class PartialDrafter final : public Drafter {
 public:
  std::vector<int32_t> guess(const TokenLog& log, int32_t n) override {
    if (log.request.tenant != "guessed") return {};
    return oracle_.guess(log, n);
  }

 private:
  fake::OracleDrafter oracle_{3, 0.0};
};

// A token that was guessed is a token served: it cost its tenant no less than one that was not.
TEST(SchedulerFairness, GuessedTokensCountAsMuchAsOthers) {
  SchedulerConfig config = small_config();
  config.max_slots = 1;
  config.max_guesses = 4;
  config.make_drafter = [] { return std::make_unique<PartialDrafter>(); };
  Shares bench(config);
  bench.add(of_tenant("guessed", 4, 60, 1));
  bench.add(of_tenant("other", 4, 30, 2));
  bench.add(of_tenant("guessed", 4, 60, 3));
  bench.add(of_tenant("other", 4, 30, 4));
  while (bench.step()) {
  }
  EXPECT_GT(bench.scheduler.guess_counts().n_right, 60U);
  const std::vector<std::string> by_share = {"guessed", "other", "other", "guessed"};
  EXPECT_EQ(bench.turns, by_share);
  bench.run_to_the_end();
}

// Though it came later: who is let in before others stays before them.
TEST(SchedulerFairness, HiddenStatesCountAsMuchAsTokens) {
  SchedulerConfig config = small_config();
  config.max_slots = 1;
  Shares bench(config);
  const auto embed = [&](const std::string& tenant, uint64_t seed) {
    GenerateRequest request = of_tenant(tenant, 60, 0, seed);
    request.want_embedding = true;
    bench.add(request);
  };
  embed("numbers", 1);
  bench.add(of_tenant("text", 4, 27, 2));
  embed("numbers", 3);
  bench.add(of_tenant("text", 4, 27, 4));
  bench.add(of_tenant("text", 4, 27, 5));
  while (bench.step()) {
  }
  const std::vector<std::string> by_share = {"numbers", "text", "text", "numbers", "text"};
  EXPECT_EQ(bench.turns, by_share) << "60 tokens, then 30 and 30";
  bench.run_to_the_end();
}

TEST(SchedulerFairness, TheLastOneLetInGoesBackWhenBlocksRunOut) {
  SchedulerConfig config = small_config();
  config.max_slots = 3;
  Shares bench(config, /*kv_blocks=*/11);  // of the 15 that the three long ones grow to
  bench.add(of_tenant("crowd", 20, 60, 1));
  bench.add(of_tenant("crowd", 20, 6, 2));
  bench.add(of_tenant("crowd", 20, 12, 3));
  const RequestId last = bench.add(of_tenant("crowd", 20, 60, 4));
  while (bench.begun.size() < 3) bench.step();
  const RequestId one = bench.add(of_tenant("one", 20, 60, 5));
  while (bench.begun.count(last) == 0) bench.step();
  ASSERT_EQ(bench.turns.at(3), "one");
  while (bench.step()) {
  }
  bench.run_to_the_end();
  EXPECT_GT(bench.scheduler.n_preemptions(), 0U);
  EXPECT_EQ(bench.ends.at(3), one) << "the last to end is the last that was let in";
}

// Those that ran when the group was lost go on before others begin, whatever their share.
TEST(SchedulerFairness, StreamsGoOnFirstAfterALoss) {
  Shares bench(small_config());
  for (uint64_t i = 0; i < 4; ++i) bench.add(of_tenant("crowd", 20, 30, i));
  for (int i = 0; i < 10; ++i) bench.step();
  for (uint64_t i = 0; i < 4; ++i) bench.add(of_tenant("one", 5, 5, 50 + i));
  bench.step();
  ASSERT_EQ(bench.begun.size(), 4U);
  bench.lose();
  bench.up();
  while (bench.heard[4].finish == FinishReason::kNone) {
    bench.step();
    if (bench.ends.empty()) {
      EXPECT_EQ(bench.begun.size(), 4U);
    }
  }
  bench.run_to_the_end();
}

TEST(SchedulerFairness, LossesAndHandoversKeepTheTenant) {
  Shares bench(small_config());
  for (uint64_t i = 0; i < 10; ++i) bench.add(of_tenant("crowd", 20, 10, i));
  bench.step();
  bench.lose();
  bench.up();
  const RequestId one = bench.add(of_tenant("one", 20, 10, 50));
  for (int i = 0; i < 8; ++i) bench.step();
  EXPECT_EQ(bench.begun.count(one), 1U);

  bench.scheduler.rest();
  Scheduler next(small_config());
  next.restore(bench.scheduler.state());
  for (const Sequence* sequence : next.waiting()) {
    ASSERT_NE(sequence->tenant, nullptr);
    EXPECT_EQ(sequence->log.request.tenant, bench.requests[sequence->id].tenant);
  }
  const std::vector<Sequence*> waiting = next.waiting();
  EXPECT_NE(waiting.front()->tenant, waiting.back()->tenant);
  EXPECT_EQ(waiting.front()->tenant->n_served, 0) << "what was served counts anew";
}

// ---- prompts beside streams ----

TEST(SchedulerLimit, ALongPromptAmongStreamsComesInChunksAsSmallAsTold) {
  SchedulerConfig config = small_config();
  config.max_slots = 9;
  config.max_batch_tokens = 64;
  config.max_prefill_tokens = 48;
  config.context_length = 2048;
  for (const int32_t n_stages : {1, 2}) {
    SCOPED_TRACE(n_stages);
    config.n_stages = n_stages;
    Bench bench(config, 256);
    for (uint64_t seed = 1; seed <= 8; ++seed) bench.add(request_of(4, 200, seed));
    while (bench.heard[8].token_ids.empty()) {
      bench.plan_all();
      bench.answer_oldest();
    }
    const RequestId prompt = bench.add(request_of(1200, 4, 9));
    int n_chunks = 0;
    for (int32_t limit : {48, 16, 33, 100, 20}) {
      bench.scheduler.limit_prompts(limit);
      for (int i = 0; i < 3; ++i) {
        bench.plan_all([&](const StepPlan& plan) {
          for (const SequencePlan& part : plan.sequences) {
            if (part.request_id != prompt) continue;
            EXPECT_EQ(part.input_ids.size(), static_cast<size_t>(std::min(limit, 48)));
            ++n_chunks;
          }
        });
        bench.answer_oldest();
      }
    }
    EXPECT_GE(n_chunks, 15);
    while (!bench.in_flight.empty()) bench.answer_oldest();
    bench.run_to_the_end();
  }
}

TEST(SchedulerLimit, WithoutStreamsPromptsComeWhole) {
  Bench bench(small_config());
  bench.scheduler.limit_prompts(16);
  bench.add(request_of(100, 4, 1));
  EXPECT_EQ(bench.scheduler.plan_step()->n_tokens(), 24);
  EXPECT_EQ(bench.scheduler.n_prompt_tokens_left(), 76);
}

TEST(SchedulerLimit, WhatDrawsNothingIsNoStream) {
  SchedulerConfig config = small_config();
  config.n_stages = 2;
  Bench bench(config);
  bench.scheduler.limit_prompts(8);
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    GenerateRequest request = request_of(25, 0, seed);
    request.want_embedding = true;
    bench.add(request);
  }
  std::vector<int> sizes;
  for (int i = 0; i < 4; ++i) {
    bench.plan_all([&](const StepPlan& plan) { sizes.push_back(plan.n_tokens()); });
    bench.answer_oldest();
  }
  EXPECT_EQ(sizes, (std::vector<int>{24, 24, 24, 3}));
  while (!bench.in_flight.empty()) bench.answer_oldest();
  bench.run_to_the_end();
}

}  // namespace
}  // namespace trireme
