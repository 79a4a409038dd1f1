// A service that is put to sleep and woken up, over groups that a test plays.
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

using Failure = std::future<std::string>;

InferenceService::SleepHandler handler_of(const std::shared_ptr<std::promise<std::string>>& end) {
  return [end](const std::string& failure) { end->set_value(failure); };
}

Failure sleep(World& world, SleepMode mode) {
  auto end = std::make_shared<std::promise<std::string>>();
  world.core->sleep(mode, handler_of(end));
  return end->get_future();
}

Failure wake_up(World& world) {
  auto end = std::make_shared<std::promise<std::string>>();
  world.core->wake_up(handler_of(end));
  return end->get_future();
}

std::string outcome(Failure& failure) {
  if (failure.wait_for(fake::kPatience) != std::future_status::ready) return "no end";
  return failure.get();
}
std::string outcome(Failure&& failure) { return outcome(failure); }

bool is_open(const Failure& failure) {
  return failure.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

void wait_up(World& world) {
  world.wait([&] { return world.n_up == static_cast<int>(world.groups.size()); });
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

void expect_status_of_all(World& world, GroupStatus status) {
  for (const ReplicaSnapshot& replica : world.core->replicas()) EXPECT_EQ(replica.status, status);
}

// Four requests, of which each has drawn something or waits.
void begin_four(World& world) {
  for (uint64_t seed = 1; seed <= 4; ++seed)
    EXPECT_TRUE(world.submit(fake::request_of(20, 10, seed)));
  world.settle();
}

TEST(CoreSleep, KeptRequestsGoOnWithTheSameTokens) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  world.on_thread([&] { world.groups[0]->script.answer = false; });
  begin_four(world);
  EXPECT_EQ(outcome(sleep(world, SleepMode::kKeep)), "");
  expect_status_of_all(world, GroupStatus::kStopped);
  const ServiceStatus asleep = world.core->status();
  EXPECT_EQ(asleep.sleep, SleepPhase::kAsleep);
  EXPECT_FALSE(asleep.ready);
  EXPECT_TRUE(asleep.alive);
  EXPECT_THAT(asleep.problem, HasSubstr("the server sleeps"));
  EXPECT_EQ(asleep.n_kv_blocks, 0);
  // What goes on from an answer that is kept, as a beam search does.
  EXPECT_TRUE(world.submit(fake::request_of(20, 10, 5)));
  world.on_thread([&] { world.groups[0]->script.answer = true; });
  EXPECT_EQ(outcome(wake_up(world)), "");
  EXPECT_EQ(world.core->status().sleep, SleepPhase::kAwake);
  EXPECT_TRUE(world.core->status().ready);
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  world.expect_nothing_held();
  EXPECT_EQ(world.n_lost, 0);
}

TEST(CoreSleep, AbortedRequestsEndAtOnceAndNoneIsTaken) {
  World world({GroupScript{}});
  wait_up(world);
  hold(world, true);
  begin_four(world);
  EXPECT_EQ(outcome(sleep(world, SleepMode::kAbort)), "");
  world.wait_until_all_ended();
  for (const fake::Transcript& heard : world.heard)
    EXPECT_EQ(heard.finish, FinishReason::kCancelled);
  const auto refused = world.submit(fake::request_of(20, 10, 5));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().param, "sleeping");
  world.expect_nothing_held();
  hold(world, false);
  EXPECT_EQ(outcome(wake_up(world)), "");
  EXPECT_TRUE(world.submit(fake::request_of(20, 10, 6)));
  world.wait_until_all_ended();
  expect_equal(world.heard.back(), fake::undisturbed(world.requests.back()));
}

TEST(CoreSleep, WaitsForWhatBegan) {
  World world({GroupScript{}});
  wait_up(world);
  hold(world, true);
  begin_four(world);
  Failure end = sleep(world, SleepMode::kWait);
  world.settle();
  EXPECT_EQ(world.core->status().sleep, SleepPhase::kSettling);
  EXPECT_FALSE(world.core->status().ready);
  expect_status_of_all(world, GroupStatus::kServing);
  // Read before, submitted now.
  std::shared_ptr<const ServedWeights> read = world.core->weights();
  hold(world, false);
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  world.settle();
  EXPECT_TRUE(is_open(end));
  EXPECT_TRUE(world.submit(fake::request_of(20, 10, 5)));
  read.reset();
  EXPECT_EQ(outcome(end), "");
  world.expect_all_undisturbed();
  EXPECT_EQ(world.heard.back().finish, FinishReason::kLength);
  expect_status_of_all(world, GroupStatus::kStopped);
  EXPECT_FALSE(world.submit(fake::request_of(20, 10, 6)));
}

TEST(CoreSleep, WaitsNoLongerThanItsDeadline) {
  World world({GroupScript{}}, {}, 1000, 0,
              [](InferenceCoreOptions& options) { options.sleep_timeout_ms = 0; });
  wait_up(world);
  hold(world, true);
  begin_four(world);
  EXPECT_THAT(outcome(sleep(world, SleepMode::kWait)), HasSubstr("requests still run after 0.0 s"));
  EXPECT_EQ(world.core->status().sleep, SleepPhase::kAwake);
  EXPECT_TRUE(world.core->status().ready);
  hold(world, false);
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  EXPECT_EQ(outcome(sleep(world, SleepMode::kAbort)), "");
}

TEST(CoreSleep, AnotherOrderTakesOver) {
  World world({GroupScript{}});
  wait_up(world);
  hold(world, true);
  begin_four(world);
  Failure waits = sleep(world, SleepMode::kWait);
  EXPECT_EQ(outcome(wake_up(world)), "");
  EXPECT_THAT(outcome(waits), HasSubstr("woken up meanwhile"));
  waits = sleep(world, SleepMode::kWait);
  EXPECT_EQ(outcome(sleep(world, SleepMode::kKeep)), "");
  EXPECT_EQ(outcome(waits), "");
  // What is kept can be given up later.
  EXPECT_EQ(outcome(sleep(world, SleepMode::kAbort)), "");
  world.wait_until_all_ended();
  for (const fake::Transcript& heard : world.heard)
    EXPECT_EQ(heard.finish, FinishReason::kCancelled);
}

TEST(CoreSleep, WakesWhenTheLastRankHasEnded) {
  GroupScript slow;
  slow.stops = false;
  World world({GroupScript{}, slow});
  wait_up(world);
  Failure asleep = sleep(world, SleepMode::kAbort);
  Failure awake = wake_up(world);
  world.settle();
  EXPECT_TRUE(is_open(asleep));
  EXPECT_TRUE(is_open(awake));
  expect_status_of_all(world, GroupStatus::kStopped);
  world.on_thread([&] {
    world.groups[1]->script.stops = true;
    world.groups[1]->end_stop();
  });
  EXPECT_EQ(outcome(asleep), "");
  EXPECT_EQ(outcome(awake), "");
  EXPECT_TRUE(world.submit(fake::request_of(20, 10, 1)));
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
}

TEST(CoreSleep, NewRequestsWaitForRanksThatAreBeingStarted) {
  World world({GroupScript{}});
  wait_up(world);
  EXPECT_EQ(outcome(sleep(world, SleepMode::kAbort)), "");
  world.on_thread([&] { world.groups[0]->script.serve_at_start = false; });
  Failure awake = wake_up(world);
  world.settle();
  EXPECT_EQ(world.core->status().sleep, SleepPhase::kWaking);
  EXPECT_THAT(world.core->status().problem, HasSubstr("the server wakes up"));
  EXPECT_TRUE(world.submit(fake::request_of(20, 10, 1)));
  EXPECT_TRUE(is_open(awake));
  world.on_thread([&] { world.groups[0]->come_up(); });
  EXPECT_EQ(outcome(awake), "");
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
}

TEST(CoreSleep, ALostGroupSleepsAndABrokenOneStaysSo) {
  World world({GroupScript{}, GroupScript{}});
  wait_up(world);
  world.on_thread([&] {
    world.groups[0]->break_for_good("it crashes");
    world.groups[1]->script.relaunches = false;
    world.groups[1]->lose("rank_exit", "rank 0 was killed");
  });
  EXPECT_EQ(outcome(sleep(world, SleepMode::kKeep)), "");
  EXPECT_EQ(outcome(wake_up(world)), "");
  EXPECT_EQ(world.core->replicas()[0].status, GroupStatus::kBroken);
  EXPECT_EQ(world.core->replicas()[1].status, GroupStatus::kServing);
}

TEST(CoreSleep, APushAndAHandoverAndSleepExcludeEachOther) {
  GroupScript slow;
  slow.prepares = false;
  World world({slow});
  wait_up(world);
  const auto push = [&world] {
    auto end = std::make_shared<std::promise<std::string>>();
    world.core->push({.path = "w", .fingerprint = 9},
                     {.on_progress = [](uint64_t, uint64_t) {},
                      .on_end = [end](const std::string& why, int32_t) { end->set_value(why); }});
    return end->get_future();
  };
  Failure pushed = push();
  EXPECT_THAT(outcome(sleep(world, SleepMode::kAbort)), HasSubstr("weights are being pushed"));
  world.on_thread([&] { world.groups[0]->end_preparation(""); });
  EXPECT_EQ(outcome(pushed), "");
  EXPECT_EQ(outcome(sleep(world, SleepMode::kAbort)), "");
  EXPECT_THAT(outcome(push()), HasSubstr("the server sleeps"));
  EXPECT_THAT(world.core->hold_plans(fake::kPatience), HasSubstr("wake it up first"));
  world.core->go_on();
  EXPECT_EQ(outcome(wake_up(world)), "");
  EXPECT_EQ(world.core->hold_plans(fake::kPatience), "its ranks cannot be handed over");
  world.core->go_on();
}

TEST(CoreSleep, AServerThatEndsGivesUpWhatItKeeps) {
  World world({GroupScript{}});
  wait_up(world);
  hold(world, true);
  begin_four(world);
  EXPECT_EQ(outcome(sleep(world, SleepMode::kKeep)), "");
  world.core->refuse_changes("the server is shutting down");
  world.wait_until_all_ended();
  EXPECT_EQ(outcome(wake_up(world)), "the server is shutting down");
  EXPECT_EQ(outcome(sleep(world, SleepMode::kAbort)), "the server is shutting down");
}

}  // namespace
}  // namespace trireme
