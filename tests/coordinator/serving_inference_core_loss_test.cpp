#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "coordinator/serving/inference_core.h"
#include "tests/coordinator/serving_world.h"

namespace trireme {
namespace {

using fake::GroupScript;
using fake::request_of;
using fake::World;

TEST(InferenceCoreLoss, ALostGroupIsReplayed) {
  GroupScript script;
  int n_plans = 0;
  script.kills = [&n_plans](const StepPlan&) { return ++n_plans % 40 == 0; };
  World world({script});
  for (uint64_t i = 0; i < 20; ++i) EXPECT_TRUE(world.submit(request_of(20, 30, i)));
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  world.expect_nothing_held();
  EXPECT_GE(world.n_lost, 3);
}

TEST(InferenceCoreLoss, RequestsMoveToAnotherReplicaAtOnce) {
  GroupScript dies;
  int n_plans = 0;
  dies.kills = [&n_plans](const StepPlan&) { return ++n_plans == 10; };
  dies.relaunches = false;  // the other replica alone must do
  World world({dies, GroupScript{}});
  for (uint64_t i = 0; i < 12; ++i) EXPECT_TRUE(world.submit(request_of(20, 30, i)));
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  EXPECT_EQ(world.n_lost, 1);
  EXPECT_TRUE(world.core->status().ready);
}

TEST(InferenceCoreLoss, OtherNumericsNeverContinueAnAnswer) {
  GroupScript dies;
  dies.kills = [](const StepPlan& plan) { return plan.epoch == 1 && plan.step_id == 5; };
  dies.relaunches = false;
  GroupScript other;
  other.numerics_id = "other";
  other.serve_at_start = false;
  World world({dies, other});
  EXPECT_TRUE(world.submit(request_of(20, 30)));
  world.wait([&] { return world.n_lost == 1; });
  world.on_thread([&] { world.groups[1]->come_up(); });
  world.settle();
  EXPECT_EQ(world.core->replicas()[1].n_running, 0);
  EXPECT_EQ(world.core->replicas()[0].n_waiting, 1);
  world.on_thread([&] { world.groups[0]->come_up(); });
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
}

// What a coordinator before this one drew, submitted before any group serves.
struct Resumed {
  Resumed(World& world, const std::string& numerics_id) {
    GenerateRequest request = request_of(20, 30);
    whole = fake::undisturbed(request).token_ids;
    request.output_ids.assign(whole.begin(), whole.begin() + 10);
    request.numerics_id = numerics_id;
    EXPECT_TRUE(world.core->submit(request, [this, &world](GenerateEvent&& event) {
      const std::lock_guard lock(world.mutex);
      rest.insert(rest.end(), event.token_ids.begin(), event.token_ids.end());
      if (!event.numerics_id.empty()) numerics_told.push_back(event.numerics_id);
      end = std::move(event);
      world.changed.notify_all();
    }));
    world.settle();
    world.on_thread([&] { world.groups[0]->come_up(); });
    world.wait([this] { return end.finish != FinishReason::kNone; });
  }

  std::vector<int32_t> whole;
  std::vector<int32_t> rest;
  std::vector<std::string> numerics_told;
  GenerateEvent end;
};

TEST(InferenceCoreLoss, GoesOnAfterWhatWasDrawnBefore) {
  GroupScript later;
  later.serve_at_start = false;
  World world({later});
  const Resumed resumed(world, "fake");
  EXPECT_EQ(resumed.rest, std::vector<int32_t>(resumed.whole.begin() + 10, resumed.whole.end()));
  EXPECT_EQ(resumed.end.finish, FinishReason::kLength);
  EXPECT_EQ(resumed.end.n_output_tokens, 30);
  EXPECT_EQ(resumed.numerics_told, std::vector<std::string>{"fake"});
}

TEST(InferenceCoreLoss, OtherNumericsNeverContinueWhatWasDrawnBefore) {
  GroupScript later;
  later.serve_at_start = false;
  World world({later});
  const Resumed resumed(world, "other");
  EXPECT_TRUE(resumed.rest.empty());
  EXPECT_EQ(resumed.end.finish, FinishReason::kError);
  EXPECT_NE(resumed.end.error.find("are of numerics other"), std::string::npos);
}

TEST(InferenceCoreLoss, ABrokenGroupEndsItsRequestsWhenNoOtherCanServe) {
  GroupScript dies;
  dies.kills = [](const StepPlan& plan) { return plan.step_id == 5; };
  dies.breaks = true;
  World world({dies});
  EXPECT_TRUE(world.submit(request_of(20, 30)));
  world.wait_until_all_ended();
  EXPECT_EQ(world.heard[0].finish, FinishReason::kError);
  EXPECT_EQ(world.heard[0].error, "the ranks crash again and again; see the log");
  EXPECT_EQ(world.heard[0].token_ids.size(), 4U);
  world.settle();
  EXPECT_FALSE(world.core->status().alive);
  EXPECT_EQ(world.submit(request_of(5, 5)).error().param, "unavailable");
}

TEST(InferenceCoreLoss, AFirstLaunchThatFailsEndsWaitingRequests) {
  GroupScript never;
  never.serve_at_start = false;
  World world({never});
  EXPECT_TRUE(world.submit(request_of(20, 30)));
  world.on_thread([&] { world.groups[0]->break_for_good("mpirun was not found; install it"); });
  world.wait_until_all_ended();
  EXPECT_EQ(world.heard[0].error, "mpirun was not found; install it");
}

TEST(InferenceCoreLoss, ManyClientsCancellationsAndLossesAtRandom) {
  for (uint64_t round = 1; round <= 20; ++round) {
    SCOPED_TRACE(round);
    std::vector<GroupScript> scripts(3);
    std::vector<std::shared_ptr<std::mt19937_64>> dice;
    for (GroupScript& script : scripts) {
      dice.push_back(std::make_shared<std::mt19937_64>(round * 10 + dice.size()));
      script.n_blocks = 16;
      // Never a replay, so that nobody is quarantined by chance.
      script.kills = [random = dice.back()](const StepPlan& plan) {
        return plan.sequences.size() > 1 && (*random)() % 50 == 0;
      };
    }
    World world(scripts);
    std::vector<std::thread> clients;
    for (uint64_t c = 0; c < 3; ++c) {
      clients.emplace_back([&world, c, round] {
        std::mt19937_64 random(round * 100 + c);
        for (uint64_t i = 0; i < 15; ++i) {
          const auto n_prompt = static_cast<int32_t>(1 + random() % 60);
          EXPECT_TRUE(world.submit(request_of(n_prompt, 40, random())));
          if (random() % 4 != 0) continue;
          const Result<RequestId> id =
              world.core->submit(request_of(n_prompt, 40, random()), [](GenerateEvent&&) {});
          world.core->cancel(*id, FinishReason::kCancelled);
        }
      });
    }
    for (std::thread& client : clients) client.join();
    world.wait_until_all_ended();
    // A plan of several sequences holds no suspect: no request is in flight in two losses without
    // having got on in between.
    world.expect_all_undisturbed();
    world.expect_nothing_held();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace trireme
