// What single fields of a request do to plans: priorities, logit rules, the prompt's likeliest
// tokens.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "coordinator/serving/scheduler.h"
#include "tests/coordinator/serving_bench.h"

namespace trireme {
namespace {

using fake::Bench;
using fake::ids_of;
using fake::request_of;
using fake::small_config;
using testing::ElementsAre;

GenerateRequest with_priority(int32_t priority, int32_t n_prompt = 4, int32_t n_new = 3) {
  GenerateRequest request = request_of(n_prompt, n_new);
  request.priority = priority;
  return request;
}

TEST(SchedulerFields, LowerPrioritiesAreServedFirst) {
  SchedulerConfig config = small_config();
  config.max_slots = 1;
  Bench bench(config);
  for (const int32_t priority : {0, 5, -1, 0}) bench.add(with_priority(priority));
  std::vector<RequestId> order;
  while (const std::optional<StepPlan> plan = bench.scheduler.plan_step()) {
    for (const RequestId id : ids_of(*plan)) {
      if (std::find(order.begin(), order.end(), id) == order.end()) order.push_back(id);
    }
    bench.answer(*plan);
  }
  EXPECT_THAT(order, ElementsAre(3, 1, 4, 2));
  bench.run_to_the_end();
}

TEST(SchedulerFields, TheHighestPriorityNumberIsPreemptedFirst) {
  Bench bench(small_config(), /*kv_blocks=*/5);
  bench.add(with_priority(1, 16, 40));  // three and a half blocks
  bench.add(with_priority(0, 16, 40));  // came later, and stays
  RequestId last_preempted = 0;
  while (const std::optional<StepPlan> plan = bench.scheduler.plan_step()) {
    for (const SequencePlan& part : plan->sequences) {
      if (part.reset_slot && bench.scheduler.n_preemptions() > 0) last_preempted = part.request_id;
    }
    bench.answer(*plan);
  }
  EXPECT_GT(bench.scheduler.n_preemptions(), 0U);
  EXPECT_EQ(last_preempted, 1U);
  bench.run_to_the_end();
}

TEST(SchedulerFields, RulesComeWithTheSlotAndWithWhatTheTokensAmountTo) {
  Bench bench(small_config());
  GenerateRequest request = request_of(3, 6);
  request.prompt_ids = {9, 4, 9};
  LogitRules rules{.presence_penalty = 1.0F};
  rules.bad_words = {{1}, {1, 2, 3}};
  request.rules = std::make_shared<LogitRules>(rules);
  const RequestId id = bench.add(request);
  std::vector<std::shared_ptr<const SlotRules>> told;
  for (int i = 0; i < 4; ++i) {
    const std::optional<StepPlan> plan = bench.scheduler.plan_step();
    ASSERT_TRUE(plan);
    if (plan->sequences[0].slot_rules != nullptr) told.push_back(plan->sequences[0].slot_rules);
    bench.answer(*plan);
  }
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0]->rules, request.rules);
  ASSERT_EQ(told[0]->seen.size(), 2U);
  EXPECT_EQ(told[0]->seen[0].token_id, 4);
  EXPECT_EQ(told[0]->seen[1].token_id, 9);
  EXPECT_EQ(told[0]->seen[1].n_output, 0);
  EXPECT_TRUE(told[0]->output_tail.empty());

  // After a loss a new slot has to be told of all that was drawn.
  bench.lose();
  bench.up();
  const std::vector<int32_t> output = bench.heard[id].token_ids;
  ASSERT_EQ(output.size(), 4U);
  const std::optional<StepPlan> plan = bench.scheduler.plan_step();
  ASSERT_TRUE(plan);
  const std::shared_ptr<const SlotRules> again = plan->sequences[0].slot_rules;
  ASSERT_NE(again, nullptr);
  EXPECT_THAT(again->output_tail, ElementsAre(output[2], output[3]));
  int32_t n_output = 0;
  for (const TokenCount& seen : again->seen) {
    EXPECT_EQ(seen.n_output, std::count(output.begin(), output.end(), seen.token_id));
    n_output += seen.n_output;
  }
  EXPECT_EQ(n_output, 4);
  bench.answer(*plan);
  bench.run_to_the_end();
}

TEST(SchedulerFields, WithoutPenaltiesNoTokensAreTold) {
  Bench bench(small_config());
  GenerateRequest request = request_of(30, 2);
  request.rules = std::make_shared<LogitRules>(LogitRules{.min_tokens = 1});
  bench.add(request);
  const std::optional<StepPlan> plan = bench.scheduler.plan_step();
  ASSERT_TRUE(plan && plan->sequences[0].slot_rules);
  EXPECT_TRUE(plan->sequences[0].slot_rules->seen.empty());
  bench.answer(*plan);
  bench.run_to_the_end();
}

}  // namespace
}  // namespace trireme
