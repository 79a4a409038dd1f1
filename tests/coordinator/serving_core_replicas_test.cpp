// Replicas that join and leave while requests run, over groups that a test plays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/coordinator/serving_world.h"

namespace trireme {
namespace {

using fake::GroupScript;
using fake::World;
using testing::HasSubstr;

constexpr std::chrono::milliseconds kLong{3600000};

struct End {
  int replica = -2;
  std::string failure = "no end";
};
using Ending = std::future<End>;

InferenceCore::ReplicaHandler handler_of(const std::shared_ptr<std::promise<End>>& end) {
  return [end](int replica, const std::string& failure) { end->set_value({replica, failure}); };
}

Ending add(World& world, bool anew = false) {
  auto end = std::make_shared<std::promise<End>>();
  world.core->add_replica(anew, handler_of(end));
  return end->get_future();
}

Ending remove(World& world, int replica, std::chrono::milliseconds patience) {
  auto end = std::make_shared<std::promise<End>>();
  world.core->remove_replica(replica, patience, handler_of(end));
  return end->get_future();
}

End outcome(Ending& ending) {
  return ending.wait_for(fake::kPatience) == std::future_status::ready ? ending.get() : End{};
}
End outcome(Ending&& ending) { return outcome(ending); }

bool is_open(const Ending& ending) {
  return ending.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

void wait_up(World& world) {
  world.wait([&] { return world.n_up == static_cast<int>(world.groups.size()); });
}

void begin_four(World& world) {
  for (uint64_t seed = 1; seed <= 4; ++seed)
    EXPECT_TRUE(world.submit(fake::request_of(20, 10, seed)));
  world.settle();
}

// The group's answers stop, or go on.
void hold(World& world, size_t group, bool held) {
  world.on_thread([&] {
    world.groups[group]->script.answer = !held;
    if (!held) world.groups[group]->answer_one();
  });
}

// On both of two replicas; those on replica 1 draw nothing until it is let go on.
void begin_four_with_some_held(World& world) {
  hold(world, 0, true);
  hold(world, 1, true);
  begin_four(world);
  hold(world, 0, false);
}

std::vector<int> members(World& world) {
  std::vector<int> all;
  for (const ReplicaSnapshot& replica : world.core->replicas()) all.push_back(replica.replica);
  return all;
}

TEST(CoreReplicas, WhatRunsWhereOneLeavesEndsThereFirst) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  begin_four_with_some_held(world);
  ASSERT_GT(world.core->replicas()[1].n_running, 0);
  Ending ending = remove(world, 1, kLong);
  world.settle();
  EXPECT_TRUE(is_open(ending));
  EXPECT_TRUE(world.core->replicas()[1].leaving);
  // New ones go elsewhere.
  begin_four(world);
  world.wait([&] {
    return std::count_if(world.heard.begin() + 4, world.heard.end(),
                         [](const auto& t) { return t.finish != FinishReason::kNone; }) == 4;
  });
  hold(world, 1, false);
  const End end = outcome(ending);
  EXPECT_EQ(end.failure, "");
  EXPECT_EQ(end.replica, 1);
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  EXPECT_EQ(members(world), std::vector<int>{0});
  world.on_thread([&] { EXPECT_EQ(world.groups[1]->status(), GroupStatus::kStopped); });
}

TEST(CoreReplicas, PastThePatienceTheyGoOnElsewhere) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  begin_four_with_some_held(world);
  EXPECT_EQ(outcome(remove(world, 1, std::chrono::milliseconds(0))).failure, "");
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  EXPECT_EQ(members(world), std::vector<int>{0});
}

TEST(CoreReplicas, WhatOnlyTheLeavingOneCouldGoOnWithEndsWithAnError) {
  World world(
      {GroupScript{.numerics_id = "a", .serve_at_start = false}, GroupScript{.numerics_id = "b"}});
  world.wait([&] { return world.n_up == 1; });
  hold(world, 1, true);
  ASSERT_TRUE(world.submit(fake::request_of(20, 10, 1)));
  world.settle();
  world.on_thread([&] {
    world.groups[1]->answer_one();
    world.groups[0]->come_up();
  });
  wait_up(world);
  EXPECT_EQ(outcome(remove(world, 1, std::chrono::milliseconds(0))).failure, "");
  world.wait_until_all_ended();
  EXPECT_EQ(world.heard[0].token_ids.size(), 1U);
  EXPECT_EQ(world.heard[0].finish, FinishReason::kError);
  EXPECT_THAT(world.heard[0].error, HasSubstr("of numerics b"));
}

TEST(CoreReplicas, OneThatLeftComesBackBeforeAnyIsNew) {
  World world({GroupScript{}, GroupScript{}, GroupScript{}});
  wait_up(world);
  ASSERT_EQ(outcome(remove(world, 1, kLong)).failure, "");
  EXPECT_EQ(members(world), (std::vector<int>{0, 2}));
  const End back = outcome(add(world));
  EXPECT_EQ(back.failure, "");
  EXPECT_EQ(back.replica, 1);
  world.scripts.push_back(GroupScript{});
  EXPECT_EQ(outcome(add(world)).replica, 3);
  EXPECT_EQ(members(world), (std::vector<int>{0, 1, 2, 3}));
  for (int i = 0; i < 4; ++i) begin_four(world);
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
}

TEST(CoreReplicas, ANewOneIsOfItsOwnWhenAskedFor) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  ASSERT_EQ(outcome(remove(world, 0, kLong)).failure, "");
  world.scripts.push_back(GroupScript{});
  EXPECT_EQ(outcome(add(world, /*anew=*/true)).replica, 2);
  EXPECT_EQ(members(world), (std::vector<int>{1, 2}));
}

TEST(CoreReplicas, TheLastThatServesStays) {
  World world({GroupScript{}, GroupScript{.serve_at_start = false}});
  world.wait([&] { return world.n_up == 1; });
  EXPECT_THAT(outcome(remove(world, 0, kLong)).failure, HasSubstr("no other replica serves"));
  EXPECT_THAT(outcome(remove(world, 2, kLong)).failure, HasSubstr("no replica 2"));
  EXPECT_THAT(outcome(remove(world, -1, kLong)).failure, HasSubstr("no replica -1"));
  begin_four(world);
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
}

TEST(CoreReplicas, OneChangeAtATime) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  begin_four_with_some_held(world);
  Ending ending = remove(world, 1, kLong);
  EXPECT_THAT(outcome(add(world)).failure, HasSubstr("another replica joins or leaves"));
  EXPECT_THAT(outcome(remove(world, 0, kLong)).failure, HasSubstr("another replica"));
  hold(world, 1, false);
  EXPECT_EQ(outcome(ending).failure, "");
}

TEST(CoreReplicas, OneThatCannotStartIsOutAgain) {
  World world({GroupScript{}});
  wait_up(world);
  world.scripts.push_back(GroupScript{.serve_at_start = false});
  Ending ending = add(world);
  world.wait([&] { return world.groups.size() == 2; });
  world.on_thread([&] { world.groups[1]->break_for_good("no such host"); });
  const End end = outcome(ending);
  EXPECT_EQ(end.failure, "no such host");
  EXPECT_EQ(members(world), std::vector<int>{0});
  EXPECT_TRUE(world.core->status().ready);
}

TEST(CoreReplicas, NewOnesComputeWithThePushedWeights) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  ASSERT_EQ(outcome(remove(world, 1, kLong)).failure, "");
  std::promise<std::string> pushed;
  world.core->push({.path = "new", .fingerprint = 7},
                   {.on_progress = {}, .on_end = [&](const std::string& failure, int32_t) {
                      pushed.set_value(failure);
                    }});
  ASSERT_EQ(pushed.get_future().get(), "");
  world.scripts.push_back(GroupScript{});
  // When nobody holds the old ones any more.
  End end;
  do {
    end = outcome(add(world));
  } while (end.failure.find("weights before the last push") != std::string::npos);
  EXPECT_EQ(end.replica, 1);
  EXPECT_EQ(outcome(add(world)).replica, 2);
  world.on_thread([&] {
    for (const fake::FakeGroup* group : world.groups)
      EXPECT_EQ(group->loaded, (std::set<uint64_t>{1}));
  });
  for (int i = 0; i < 3; ++i) begin_four(world);
  world.wait_until_all_ended();
}

TEST(CoreReplicas, AServiceThatEndsWaitsForNoChange) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  begin_four_with_some_held(world);
  Ending ending = remove(world, 1, kLong);
  world.core->refuse_changes("the server is shutting down");
  EXPECT_EQ(outcome(ending).failure, "the server is shutting down");
  hold(world, 1, false);
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
}

}  // namespace
}  // namespace trireme
