#include "coordinator/serving/pipeline_bubble.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "coordinator/serving/step_times.h"
#include "tests/coordinator/serving_bench.h"

namespace trireme {
namespace {

using fake::request_of;
using std::chrono::milliseconds;
using TimePoint = StepTimes::TimePoint;

// A scheduler's plans on stages that take 10 ms each, in virtual time: a stage takes one plan after
// the other, when the stage before has done with it; the first one also waits for the tokens that a
// plan names by slot, which the last one draws.
struct Pipeline {
  explicit Pipeline(int32_t n_stages, int32_t n_streams) : bench(config_of(n_stages), 256) {
    free_at.assign(static_cast<size_t>(n_stages), TimePoint());
    for (int32_t i = 0; i < n_streams; ++i)
      bench.add(request_of(4, 200, static_cast<uint64_t>(i) + 1));
  }

  static SchedulerConfig config_of(int32_t n_stages) {
    SchedulerConfig config = fake::small_config();
    config.max_slots = 16;
    config.n_stages = n_stages;
    config.n_plans_ahead = 1;
    return config;
  }

  void send(const StepPlan& plan) {
    times.sent(now, plan);
    TimePoint begin = now;
    for (const SequencePlan& part : plan.sequences) {
      if (part.input_ids.back() == kTokenFromSlot) begin = std::max(begin, drawn_at[part.slot]);
    }
    for (TimePoint& stage : free_at) {
      begin = stage = std::max(begin, stage) + kStep;
      computed += kStep;
    }
    for (const SequencePlan& part : plan.sequences) drawn_at[part.slot] = begin;
    done_at.push_back(begin);
  }

  void run(int n_answers) {
    for (int i = 0; i < n_answers; ++i) {
      bench.plan_all([this](const StepPlan& plan) { send(plan); });
      now = done_at.front();
      done_at.pop_front();
      const uint64_t step_id = bench.in_flight.front().step_id;
      bench.answer_oldest();
      steps.push_back(times.answered(now, step_id, static_cast<int32_t>(free_at.size())));
    }
  }

  // Plans in flight are not done.
  PipelineBubble::Totals totals() const {
    const auto n_stages = static_cast<int32_t>(free_at.size());
    return {.epoch = 1,
            .n_stages = n_stages,
            .computed_us = static_cast<uint64_t>(
                std::chrono::microseconds(computed - done_at.size() * kStep * n_stages).count()),
            .working_us = static_cast<uint64_t>(times.working(now).count())};
  }

  static constexpr milliseconds kStep{10};
  fake::Bench bench;
  StepTimes times;
  TimePoint now{milliseconds(1000)};
  std::vector<TimePoint> free_at;         // by stage
  std::map<int32_t, TimePoint> drawn_at;  // by slot: its last token
  std::deque<TimePoint> done_at;          // plans in flight
  milliseconds computed{};
  std::vector<StepTimes::Step> steps;
};

double ratio_of(Pipeline& pipeline) {
  PipelineBubble bubble;
  bubble.observe(0, pipeline.totals());
  for (int i = 0; i < 10; ++i) {
    pipeline.run(15);
    bubble.observe(0, pipeline.totals());
  }
  return bubble.ratio();
}

TEST(PipelineBubble, OneStreamKeepsOneStageBusyManyKeepAll) {
  for (const int32_t n_stages : {1, 2, 4}) {
    SCOPED_TRACE(n_stages);
    Pipeline one(n_stages, 1);
    EXPECT_NEAR(ratio_of(one), 1 - 1.0 / n_stages, 0.02);
    Pipeline many(n_stages, 8);
    EXPECT_LT(ratio_of(many), 0.05);
  }
}

// What a step takes by itself: all steps of a full pipeline are a stage's time apart, and one alone
// goes through all stages.
TEST(StepTimes, AStepIsOneStagesTime) {
  for (const int32_t n_stages : {1, 2, 4}) {
    SCOPED_TRACE(n_stages);
    Pipeline pipeline(n_stages, 8);
    pipeline.run(100);
    for (size_t i = 8; i < pipeline.steps.size(); ++i)
      EXPECT_NEAR(pipeline.steps[i].ms, 10, 0.01) << i;
  }
}

TEST(StepTimes, TellsPromptsFromDecodes) {
  StepTimes times;
  StepPlan plan{.step_id = 1};
  plan.sequences.resize(3);
  plan.sequences[0].input_ids = {1};
  plan.sequences[1].input_ids = {1, 2, 3};
  plan.sequences[2].input_ids = {1, 2};
  times.sent(TimePoint(milliseconds(5)), plan);
  EXPECT_EQ(times.working(TimePoint(milliseconds(7))), milliseconds(2));
  const StepTimes::Step step = times.answered(TimePoint(milliseconds(9)), 1, 2);
  EXPECT_EQ(step.n_prompt_tokens, 5);
  EXPECT_EQ(step.n_decodes, 1);
  EXPECT_EQ(step.phase(), StepPhase::kMixed);
  EXPECT_EQ(step.ms, 2.0) << "it was alone on two stages";
  EXPECT_EQ(times.working(TimePoint(milliseconds(100))), milliseconds(4)) << "idle time is no work";
  plan.step_id = 2;
  plan.sequences.resize(1);
  times.sent(TimePoint(milliseconds(100)), plan);
  EXPECT_EQ(times.answered(TimePoint(milliseconds(100)), 2, 2).phase(), StepPhase::kDecode);
  plan.step_id = 3;
  plan.sequences[0].input_ids = {1, 2};
  plan.sequences[0].n_guesses = 1;
  times.sent(TimePoint(milliseconds(100)), plan);
  EXPECT_EQ(times.answered(TimePoint(milliseconds(100)), 3, 2).phase(), StepPhase::kDecode);
  plan.step_id = 4;
  plan.sequences[0].n_guesses = 0;
  times.sent(TimePoint(milliseconds(100)), plan);
  EXPECT_EQ(times.answered(TimePoint(milliseconds(100)), 4, 2).phase(), StepPhase::kPrefill);
  plan.step_id = 5;
  times.sent(TimePoint(milliseconds(100)), plan);
  times.lost(TimePoint(milliseconds(103)));
  EXPECT_EQ(times.working(TimePoint(milliseconds(200))), milliseconds(7));
}

TEST(PipelineBubble, ALaunchBeginsAnewAndReplicasCountTogether) {
  PipelineBubble bubble;
  EXPECT_EQ(bubble.ratio(), 0.0);
  const auto totals = [](uint64_t epoch, uint64_t computed, uint64_t working) {
    return PipelineBubble::Totals{
        .epoch = epoch, .n_stages = 2, .computed_us = computed, .working_us = working};
  };
  bubble.observe(0, totals(1, 1000, 1000));
  bubble.observe(0, totals(1, 2000, 2000));
  EXPECT_NEAR(bubble.ratio(), 0.5, 1e-9);
  bubble.observe(0, totals(2, 10, 3000));  // whatever it did before it was lost
  EXPECT_NEAR(bubble.ratio(), 0.5, 1e-9);
  bubble.observe(1, totals(1, 0, 0));
  bubble.observe(1, totals(1, 2000, 1000));  // both stages, all the time
  EXPECT_NEAR(bubble.ratio(), 0.25, 1e-3);
  bubble.observe(1, totals(1, 2000, 1000));  // nothing to do is no bubble
  EXPECT_NEAR(bubble.ratio(), 0.25, 1e-3);
}

}  // namespace
}  // namespace trireme
