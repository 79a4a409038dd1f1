// Changes of weights over groups that a test plays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>

#include "tests/coordinator/serving_world.h"

namespace trireme {
namespace {

using fake::GroupScript;
using fake::World;
using testing::HasSubstr;

WeightsFile file_of(uint64_t fingerprint) { return {.path = "w", .fingerprint = fingerprint}; }

struct Pushed {
  std::promise<std::string> promise;
  std::future<std::string> failure = promise.get_future();
  int32_t n_before = 0;
};

std::shared_ptr<Pushed> push(World& world, uint64_t fingerprint) {
  auto pushed = std::make_shared<Pushed>();
  world.core->push(file_of(fingerprint),
                   {.on_progress = [](uint64_t, uint64_t) {},
                    .on_end =
                        [pushed](const std::string& failure, int32_t n_before) {
                          pushed->n_before = n_before;
                          pushed->promise.set_value(failure);
                        }});
  return pushed;
}

std::string outcome(Pushed& pushed) {
  if (pushed.failure.wait_for(fake::kPatience) != std::future_status::ready) return "no end";
  return pushed.failure.get();
}

void wait_up(World& world) {
  world.wait([&] { return world.n_up == static_cast<int>(world.groups.size()); });
}

bool loads(World& world, const std::set<uint64_t>& generations) {
  bool all = true;
  world.on_thread([&] {
    for (const fake::FakeGroup* group : world.groups) all &= group->loaded == generations;
  });
  return all;
}

// Answers stop until the test lets them go on.
void hold(World& world, bool held) {
  world.on_thread([&] {
    for (fake::FakeGroup* group : world.groups) {
      group->script.answer = !held;
      if (!held) group->answer_one();
    }
  });
}

TEST(CorePush, StreamsEndOnTheWeightsTheyBeganWith) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  hold(world, true);
  for (uint64_t seed = 1; seed <= 4; ++seed)
    EXPECT_TRUE(world.submit(fake::request_of(20, 10, seed)));
  world.settle();
  const auto pushed = push(world, 9);
  EXPECT_EQ(outcome(*pushed), "");
  EXPECT_EQ(pushed->n_before, 4);
  EXPECT_EQ(world.core->weights()->generation, 1U);
  EXPECT_EQ(world.core->weights()->id, weights_id(9));
  EXPECT_THAT(world.core->weights()->before, testing::ElementsAre(weights_id(0)));
  EXPECT_TRUE(loads(world, {0, 1}));
  EXPECT_THAT(outcome(*push(world, 10)), HasSubstr("4 requests still run on the weights before"));
  for (uint64_t seed = 5; seed <= 8; ++seed)
    EXPECT_TRUE(world.submit(fake::request_of(20, 10, seed)));
  hold(world, false);
  world.wait_until_all_ended();
  for (size_t i = 0; i < 8; ++i) {
    SCOPED_TRACE(i);
    expect_equal(world.heard[i], fake::undisturbed(world.requests[i], i < 4 ? 0 : 1));
  }
  world.settle();
  EXPECT_TRUE(loads(world, {1}));
}

TEST(CorePush, NothingChangesWhereOneGroupCannot) {
  GroupScript slow;
  slow.prepares = false;
  World world({GroupScript{}, slow});
  wait_up(world);
  const auto failing = push(world, 9);
  world.settle();
  EXPECT_THAT(outcome(*push(world, 10)), HasSubstr("another push is under way"));
  world.on_thread([&] { world.groups[1]->end_preparation("rank 1: a leaf is damaged"); });
  EXPECT_EQ(outcome(*failing), "replica 1, rank 1: a leaf is damaged");
  EXPECT_TRUE(loads(world, {0}));
  EXPECT_EQ(world.core->weights()->generation, 0U);
  // The number of a push that failed is not used again.
  world.on_thread([&] { world.groups[1]->script.prepares = true; });
  EXPECT_EQ(outcome(*push(world, 10)), "");
  EXPECT_TRUE(loads(world, {2}));
}

TEST(CorePush, ALossMeanwhileEndsIt) {
  GroupScript slow;
  slow.prepares = false;
  World world({GroupScript{}, slow});
  wait_up(world);
  const auto failing = push(world, 9);
  world.on_thread([&] { world.groups[0]->lose("rank_exit", "rank 0 was killed by signal 9"); });
  EXPECT_THAT(outcome(*failing), HasSubstr("replica 0 was lost meanwhile: rank 0 was killed"));
  world.wait([&] { return world.n_up == 3; });
  EXPECT_TRUE(world.submit(fake::request_of(20, 10, 1)));
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  EXPECT_TRUE(loads(world, {0}));
}

TEST(CorePush, OldSequencesMoveToAReplicaThatKeepsTheirWeights) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  hold(world, true);
  for (uint64_t seed = 1; seed <= 4; ++seed)
    EXPECT_TRUE(world.submit(fake::request_of(20, 10, seed)));
  world.settle();
  EXPECT_EQ(outcome(*push(world, 9)), "");
  world.on_thread([&] {
    world.groups[0]->script.breaks = true;
    world.groups[0]->lose("rank_exit", "rank 0 was killed");
  });
  hold(world, false);
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
}

// What is held here may go after the last event: a look at it comes a little later.
void expect_only(World& world, uint64_t generation) {
  for (int turn = 0; turn < 100000 && !loads(world, {generation}); ++turn) world.settle();
  EXPECT_TRUE(loads(world, {generation}));
}

// A request that was read, as HTTP does, and is submitted later.
TEST(CorePush, WhoeverHoldsTheWeightsMaySubmitWithThem) {
  World world({GroupScript{}});
  wait_up(world);
  GenerateRequest request = fake::request_of(20, 10, 1);
  request.weights = world.core->weights();
  EXPECT_EQ(outcome(*push(world, 9)), "");
  world.settle();
  EXPECT_TRUE(loads(world, {0, 1}));
  EXPECT_TRUE(world.submit(request));
  request.weights.reset();
  world.requests[0].weights.reset();
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  expect_only(world, 1);
}

TEST(CorePush, WhatHoldsThemWithoutARequestIsSeenGo) {
  World world({GroupScript{}});
  wait_up(world);
  auto held = world.core->weights();
  EXPECT_EQ(outcome(*push(world, 9)), "");
  EXPECT_TRUE(loads(world, {0, 1}));
  held.reset();
  expect_only(world, 1);
}

TEST(CorePush, RefusesWhatCannotBe) {
  GroupScript late;
  late.serve_at_start = false;
  World world({GroupScript{}, late});
  world.wait([&] { return world.n_up == 1; });
  EXPECT_THAT(outcome(*push(world, 9)), HasSubstr("replica 1 is not serving now"));
  world.on_thread([&] { world.groups[1]->come_up(); });
  EXPECT_THAT(outcome(*push(world, 0)), HasSubstr("w is already served"));
  world.core->refuse_changes("the server is shutting down");
  EXPECT_EQ(outcome(*push(world, 9)), "the server is shutting down");
}

// A replica that was given up has no say.
TEST(CorePush, GoesOnWithoutABrokenReplica) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  world.on_thread([&] { world.groups[0]->break_for_good("it crashes"); });
  EXPECT_EQ(outcome(*push(world, 9)), "");
  EXPECT_TRUE(world.submit(fake::request_of(20, 10, 1)));
  world.wait_until_all_ended();
  expect_equal(world.heard[0], fake::undisturbed(world.requests[0], 1));
}

}  // namespace
}  // namespace trireme
