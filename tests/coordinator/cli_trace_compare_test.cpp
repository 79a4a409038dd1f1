#include <gtest/gtest.h>

#include "coordinator/cli/trace_compare.h"

namespace trireme {
namespace {

StepResult rank_result(int32_t rank, std::vector<TraceEntry> trace, uint64_t step = 1) {
  StepResult r;
  r.step_id = step;
  r.world_rank = rank;
  r.trace = std::move(trace);
  return r;
}

// Two ranks that share operator 0 and own one head each of operator 1, in two layers.
std::vector<StepResult> two_ranks() {
  return {rank_result(0, {{0, 0, 0, 100}, {0, 1, 0, 200}, {1, 0, 0, 300}, {1, 1, 0, 400}}),
          rank_result(1, {{0, 0, 0, 100}, {0, 1, 1, 201}, {1, 0, 0, 300}, {1, 1, 1, 401}})};
}

// The same numbers on one rank.
std::vector<StepResult> one_rank() {
  return {rank_result(0, {{0, 0, 0, 100},
                          {0, 1, 0, 200},
                          {0, 1, 1, 201},
                          {1, 0, 0, 300},
                          {1, 1, 0, 400},
                          {1, 1, 1, 401}})};
}

TEST(TraceCompare, EqualRunsDoNotDiffer) {
  EXPECT_FALSE(compare_traces(one_rank(), two_ranks()));
  EXPECT_FALSE(compare_traces(two_ranks(), one_rank()));
}

TEST(TraceCompare, NamesLayerOperatorUnitAndRank) {
  auto b = two_ranks();
  b[1].trace[3].hash = 1;  // layer 1, operator 1, head 1
  auto d = compare_traces(one_rank(), b);
  ASSERT_TRUE(d);
  EXPECT_EQ(d->layer, 1);
  EXPECT_EQ(d->op, 1);
  EXPECT_EQ(d->unit, 1);
  EXPECT_EQ(d->world_rank, 1);
  EXPECT_EQ(d->side, 'b');
  b[1].trace[1].hash = 2;  // an earlier one wins
  d = compare_traces(one_rank(), b);
  ASSERT_TRUE(d);
  EXPECT_EQ(d->layer, 0);
}

TEST(TraceCompare, FindsTheRankThatDisagreesWithItsOwnGroup) {
  auto b = two_ranks();
  b[1].trace[2].hash = 9;  // layer 1, operator 0: whole on both ranks
  const auto d = compare_traces(one_rank(), b);
  ASSERT_TRUE(d);
  EXPECT_EQ(d->layer, 1);
  EXPECT_EQ(d->op, 0);
  EXPECT_EQ(d->world_rank, 1);
  auto a = two_ranks();
  a[1].trace[0].hash = 9;
  EXPECT_EQ(compare_traces(a, one_rank())->side, 'a');
}

TEST(TraceCompare, MissingEntriesAndLaterStepsCount) {
  auto b = two_ranks();
  b[1].trace.pop_back();
  EXPECT_TRUE(compare_traces(one_rank(), b));
  EXPECT_TRUE(compare_traces(b, one_rank()));
  auto a = one_rank();
  auto c = one_rank();
  a.push_back(rank_result(0, {{0, 0, 0, 5}}, 2));
  c.push_back(rank_result(0, {{0, 0, 0, 6}}, 2));
  const auto d = compare_traces(a, c);
  ASSERT_TRUE(d);
  EXPECT_EQ(d->step_id, 2U);
}

}  // namespace
}  // namespace trireme
