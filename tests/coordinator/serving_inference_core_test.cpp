#include <gtest/gtest.h>

#include <future>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/serving/inference_core.h"
#include "tests/coordinator/serving_world.h"

namespace trireme {
namespace {

using fake::GroupScript;
using fake::kPatience;
using fake::request_of;
using fake::Transcript;
using fake::World;

TEST(InferenceCore, AnswersRequestsOfManyThreads) {
  World world({GroupScript{}, GroupScript{}});
  std::vector<std::thread> clients;
  for (uint64_t c = 0; c < 4; ++c) {
    clients.emplace_back([&world, c] {
      for (uint64_t i = 0; i < 25; ++i)
        EXPECT_TRUE(world.submit(request_of(static_cast<int32_t>(3 + i), 20, 100 * c + i)));
    });
  }
  for (std::thread& client : clients) client.join();
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  world.expect_nothing_held();
  world.settle();
  EXPECT_TRUE(world.core->status().ready);
  EXPECT_EQ(world.core->status().n_kv_blocks, 128);
  EXPECT_EQ(world.core->status().kv_usage, 0.0);
}

GenerateRequest guided(int32_t n_prompt, int32_t max_new, uint64_t seed, std::string grammar) {
  GenerateRequest request = request_of(n_prompt, max_new, seed);
  request.grammar = {.tag = "fake", .text = std::move(grammar)};
  return request;
}

// Masks are made on threads of their own, for grammars among free answers; groups are lost
// meanwhile.
TEST(InferenceCore, GrammarsAreFollowedThroughLosses) {
  GroupScript script;
  int n_plans = 0;
  script.kills = [&n_plans](const StepPlan&) { return ++n_plans % 40 == 0; };
  World world({script, GroupScript{}}, {}, 1000, /*n_mask_threads=*/2);
  for (uint64_t i = 0; i < 40; ++i) {
    GenerateRequest request = guided(5 + static_cast<int32_t>(i), 30, i, std::to_string(i));
    if (i % 3 == 0) request.grammar = {};
    EXPECT_TRUE(world.submit(request));
  }
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  world.expect_nothing_held();
}

TEST(InferenceCore, AFailingGrammarEndsItsRequestAlone) {
  World world({GroupScript{}}, {}, 1000, /*n_mask_threads=*/2);
  for (const char* grammar : {"20", "20!0", "20!7", "20"})
    EXPECT_TRUE(world.submit(guided(5, 30, 1, grammar)));
  GenerateRequest unknown = guided(5, 30, 1, "20");
  unknown.grammar.tag = "no such";
  EXPECT_TRUE(world.submit(unknown));
  world.wait_until_all_ended();
  for (const size_t i : {0U, 3U}) {
    EXPECT_EQ(world.heard[i].finish, FinishReason::kStop);
    EXPECT_EQ(world.heard[i].token_ids.size(), 21U);
  }
  for (const size_t i : {1U, 2U, 4U}) {
    EXPECT_EQ(world.heard[i].finish, FinishReason::kError);
    EXPECT_TRUE(world.heard[i].own_fault);
  }
  EXPECT_EQ(world.heard[2].token_ids.size(), 7U);
  EXPECT_EQ(world.heard[4].error, "the grammar is refused");
  world.expect_nothing_held();
}

// The answer's tokens so far came from another coordinator.
TEST(InferenceCore, AGrammarGoesOnFromALog) {
  World world({GroupScript{}});
  const GenerateRequest request = guided(5, 30, 3, "20");
  const Transcript whole = fake::undisturbed(request);
  GenerateRequest rest = request;
  rest.output_ids = {whole.token_ids.begin(), whole.token_ids.begin() + 8};
  rest.numerics_id = "fake";
  Transcript heard;
  std::promise<void> done;
  EXPECT_TRUE(world.core->submit(rest, [&](GenerateEvent&& event) {
    heard.token_ids.insert(heard.token_ids.end(), event.token_ids.begin(), event.token_ids.end());
    if (event.finish != FinishReason::kNone) done.set_value();
  }));
  ASSERT_EQ(done.get_future().wait_for(kPatience), std::future_status::ready);
  EXPECT_EQ(heard.token_ids, std::vector(whole.token_ids.begin() + 8, whole.token_ids.end()));
}

TEST(InferenceCore, WorkIsSharedOverReplicas) {
  GroupScript mute;
  mute.answer = false;
  World world({mute, mute});
  world.wait([&] { return world.n_up == 2; });
  for (uint64_t i = 0; i < 6; ++i) EXPECT_TRUE(world.submit(request_of(5, 5, i)));
  world.settle();
  for (const ReplicaSnapshot& replica : world.core->replicas())
    EXPECT_EQ(replica.n_running + replica.n_waiting, 3);
}

TEST(InferenceCore, RequestsWaitForTheGroup) {
  GroupScript slow;
  slow.serve_at_start = false;
  World world({slow});
  EXPECT_TRUE(world.submit(request_of(5, 5)));
  world.settle();
  EXPECT_FALSE(world.core->status().ready);
  EXPECT_TRUE(world.core->status().alive);
  EXPECT_EQ(world.core->status().problem, "the model is being loaded");
  EXPECT_EQ(world.core->status().n_waiting, 1);
  world.on_thread([&] { world.groups[0]->come_up(); });
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
}

TEST(InferenceCore, RefusesAtOnce) {
  GroupScript mute;
  mute.answer = false;
  World world({mute}, {}, /*max_waiting=*/3);
  world.wait([&] { return world.n_up == 1; });
  world.settle();
  EXPECT_EQ(world.submit(request_of(250, 7)).error().param, "max_tokens");
  // 4 slots and 3 places in the queue.
  RequestId first = 0;
  for (uint64_t i = 0; i < 7; ++i) {
    const Result<RequestId> id = world.submit(request_of(5, 5, i));
    ASSERT_TRUE(id);
    first = i == 0 ? *id : first;
  }
  EXPECT_EQ(world.submit(request_of(5, 5)).error().param, "queue");
  world.core->cancel(first, FinishReason::kCancelled);
  world.settle();
  EXPECT_TRUE(world.submit(request_of(5, 5)));
  EXPECT_EQ(world.submit(request_of(5, 5)).error().param, "queue");
}

// Those who fill the queue are refused, not those who come beside them.
TEST(InferenceCore, AFullQueueHasRoomForOtherTenants) {
  GroupScript mute;
  mute.answer = false;
  World world({mute}, {}, /*max_waiting=*/8);
  world.wait([&] { return world.n_up == 1; });
  world.settle();
  const auto submit = [&](const char* tenant) {
    GenerateRequest request = request_of(5, 5);
    request.tenant = tenant;
    return world.submit(request);
  };
  RequestId first = 0;
  for (int i = 0; i < 12; ++i) first = *submit("crowd");
  EXPECT_EQ(submit("crowd").error().param, "queue");
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(submit("one")) << "half of half of 12";
  EXPECT_EQ(submit("one").error().param, "queue");
  EXPECT_TRUE(submit("other"));
  EXPECT_TRUE(submit("other"));
  EXPECT_EQ(submit("other").error().param, "queue") << "half of a third";
  world.core->cancel(first, FinishReason::kCancelled);
  world.settle();
  EXPECT_EQ(submit("crowd").error().param, "queue");
}

TEST(InferenceCore, RefusesWhatNoReplicaHasBlocksFor) {
  GroupScript tiny;
  tiny.n_blocks = 2;
  World world({tiny});
  world.wait([&] { return world.n_up == 1; });
  world.settle();
  EXPECT_TRUE(world.submit(request_of(16, 17)));
  EXPECT_EQ(world.submit(request_of(16, 18)).error().param, "max_tokens");
  world.wait_until_all_ended();
}

TEST(InferenceCore, NoEventAfterCancelOnTheServiceThread) {
  GroupScript script;
  World world({script});
  std::promise<void> submitted;
  std::shared_future<void> go = submitted.get_future().share();
  int n_events = 0;
  RequestId id = 0;
  const Result<RequestId> result = world.core->submit(request_of(5, 200), [&, go](GenerateEvent&&) {
    go.wait();
    if (++n_events == 3) world.core->cancel(id, FinishReason::kCancelled);
  });
  id = *result;
  submitted.set_value();
  EXPECT_TRUE(world.submit(request_of(5, 100, 2)));
  world.wait_until_all_ended();
  EXPECT_EQ(n_events, 3);
  world.expect_nothing_held();
}

TEST(InferenceCore, AHandlerMaySubmitAndCancelBeforeTheFirstEvent) {
  World world({GroupScript{}});
  std::promise<void> done;
  int n_inner_events = 0;
  ASSERT_TRUE(world.core->submit(request_of(5, 1), [&](GenerateEvent&& event) {
    if (event.finish == FinishReason::kNone) return;
    const Result<RequestId> inner =
        world.core->submit(request_of(5, 5), [&](GenerateEvent&&) { ++n_inner_events; });
    world.core->cancel(*inner, FinishReason::kCancelled);
    done.set_value();
  }));
  ASSERT_EQ(done.get_future().wait_for(kPatience), std::future_status::ready);
  EXPECT_TRUE(world.submit(request_of(5, 20)));
  world.wait_until_all_ended();
  EXPECT_EQ(n_inner_events, 0);
  world.expect_nothing_held();
}

TEST(InferenceCore, DrainRefusesNewWorkAndFinishesTheOld) {
  World world({GroupScript{}});
  for (uint64_t i = 0; i < 8; ++i) EXPECT_TRUE(world.submit(request_of(20, 50, i)));
  std::promise<void> drained;
  world.core->drain([&] { drained.set_value(); });
  EXPECT_EQ(world.submit(request_of(5, 5)).error().param, "draining");
  EXPECT_TRUE(world.core->status().draining);
  EXPECT_FALSE(world.core->status().ready);
  ASSERT_EQ(drained.get_future().wait_for(kPatience), std::future_status::ready);
  world.heard.pop_back();  // the refused one
  for (const Transcript& transcript : world.heard)
    EXPECT_EQ(transcript.finish, FinishReason::kLength);
}

TEST(InferenceCore, StopEndsWhatIsLeft) {
  GroupScript mute;
  mute.answer = false;
  World world({mute});
  EXPECT_TRUE(world.submit(request_of(20, 50)));
  world.core->stop();
  EXPECT_EQ(world.heard[0].finish, FinishReason::kError);
  EXPECT_EQ(world.heard[0].error, "the server is shutting down");
  EXPECT_FALSE(world.heard[0].own_fault);
  EXPECT_EQ(world.submit(request_of(5, 5)).error().param, "draining");
  world.core->stop();
}

TEST(InferenceCore, ObserverSeesEveryTokenAndStep) {
  ServingObserver observer;
  int n_first = 0, n_inter = 0, n_queue = 0, n_prefill = 0, n_decode = 0, n_steps = 0;
  int n_preempted = 0, n_lost = 0, n_replayed = 0, n_planned = 0, n_timed = 0;
  std::map<FinishReason, int> finished;
  observer.on_first_token = [&](double) { ++n_first; };
  observer.on_inter_token = [&](double seconds) { n_inter += seconds >= 0.0 ? 1 : 0; };
  observer.on_queue_time = [&](double) { ++n_queue; };
  observer.on_prefill_time = [&](double) { ++n_prefill; };
  observer.on_decode_time = [&](double) { ++n_decode; };
  observer.on_preemption = [&] { ++n_preempted; };
  observer.on_group_lost = [&](const std::string& cause) { n_lost += cause == "rank_exit"; };
  observer.on_replayed = [&](int32_t n) { n_replayed += n; };
  observer.on_iteration = [&](int32_t n_tokens) {
    ++n_steps;
    n_planned += n_tokens;
  };
  observer.on_step = [&](StepPhase, double seconds) { n_timed += seconds >= 0.0 ? 1 : 0; };
  observer.on_finished = [&](double e2e, int32_t n_prompt, int32_t n_output, FinishReason reason) {
    EXPECT_GE(e2e, 0.0);
    EXPECT_EQ(n_prompt, 20);
    EXPECT_EQ(n_output, 40);
    ++finished[reason];
  };
  GroupScript script;
  script.n_blocks = 8;  // two sequences of 4 blocks
  script.kills = [](const StepPlan& plan) { return plan.epoch == 1 && plan.step_id == 30; };
  World world({script}, observer);
  for (uint64_t i = 0; i < 4; ++i) EXPECT_TRUE(world.submit(request_of(20, 40, i)));
  world.wait_until_all_ended();
  world.expect_all_undisturbed();
  world.core->stop();
  EXPECT_EQ(n_first, 4);
  EXPECT_EQ(n_inter, 4 * 39);
  EXPECT_EQ(n_queue, 4);
  EXPECT_EQ(n_prefill, 4);
  EXPECT_EQ(n_decode, 4);
  EXPECT_EQ(finished[FinishReason::kLength], 4);
  EXPECT_EQ(n_lost, 1);
  EXPECT_GT(n_replayed, 0);
  EXPECT_GT(n_preempted, 0);
  EXPECT_GT(n_steps, 40);
  EXPECT_EQ(n_timed, n_steps);
  EXPECT_GT(n_planned, 4 * 59);
}

}  // namespace
}  // namespace trireme
