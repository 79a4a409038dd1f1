// Which replica a request goes to, and what a core learns from how long steps take.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <vector>

#include "coordinator/serving/inference_core.h"
#include "tests/coordinator/serving_world.h"

namespace trireme {
namespace {

using fake::Bench;
using fake::GroupScript;
using fake::request_of;
using fake::World;

// Asked on the service's thread, which answers at once however busy the machine is.
int n_live(World& world, size_t replica) {
  ReplicaSnapshot now;
  world.on_thread([&] { now = world.core->replicas().at(replica); });
  return now.n_running + now.n_waiting;
}

// Two replicas, the second of which has the KV of `prompt`.
struct TwoReplicas {
  explicit TwoReplicas(const GenerateRequest& prompt) : world({mute(), mute()}) {
    world.wait([this] { return world.n_up == 2; });
    EXPECT_TRUE(world.submit(request_of(80, 2, 1000)));
    world.settle();
    EXPECT_TRUE(world.submit(prompt));
    world.settle();
    EXPECT_EQ(n_live(world, 1), 1);
    answer_all();
  }
  static GroupScript mute() {
    GroupScript script;
    script.answer = false;
    return script;
  }
  void answer_all() {
    const auto all_ended = [this] {
      const std::lock_guard lock(world.mutex);
      return std::all_of(world.heard.begin(), world.heard.end(), [](const auto& transcript) {
        return transcript.finish != FinishReason::kNone;
      });
    };
    for (int turn = 0; turn < 10000 && !all_ended(); ++turn) {
      world.on_thread([this] {
        for (fake::FakeGroup* group : world.groups) group->answer_one();
      });
    }
    ASSERT_TRUE(all_ended());
    world.settle();
  }
  // Where one more request goes, of this prompt.
  size_t place(const GenerateRequest& request) {
    const int n_before = n_live(world, 1);
    EXPECT_TRUE(world.submit(request));
    world.settle();
    return n_live(world, 1) > n_before ? 1 : 0;
  }

  World world;
};

TEST(Placement, ARequestGoesWhereItsPrefixIs) {
  const GenerateRequest prompt = request_of(80, 6, 7);
  TwoReplicas two(prompt);
  EXPECT_EQ(two.place(prompt), 1U);
  two.answer_all();
  EXPECT_EQ(two.world.heard.back().n_cached_tokens, 64);
  GenerateRequest next_turn = prompt;
  for (int32_t token = 1; token < 60; ++token) next_turn.prompt_ids.push_back(token);
  EXPECT_EQ(two.place(next_turn), 1U);
  two.answer_all();
  EXPECT_EQ(two.place(request_of(80, 6, 8)), 0U) << "without a prefix, the first one";
  two.answer_all();
  two.world.expect_all_undisturbed();
}

TEST(Placement, OtherKeysPrefixesAreNone) {
  GenerateRequest prompt = request_of(80, 6, 7);
  TwoReplicas two(prompt);
  prompt.cache_salt = "other\n";
  EXPECT_EQ(two.place(prompt), 0U);
  two.answer_all();
}

// A prefix of 64 tokens is not worth another sequence beside it, nor a prompt that is longer.
TEST(Placement, ABusyReplicaIsNotWorthItsPrefix) {
  const GenerateRequest prompt = request_of(80, 6, 7);
  TwoReplicas two(prompt);
  EXPECT_EQ(two.place(prompt), 1U);
  EXPECT_EQ(two.place(prompt), 0U);
  EXPECT_EQ(two.place(prompt), 1U) << "one sequence each";
  two.answer_all();
  two.world.expect_all_undisturbed();
}

TEST(Placement, PromptsAheadCountAgainstTheSavedTokens) {
  const GenerateRequest prompt = request_of(80, 6, 7);
  for (const bool longer : {false, true}) {
    SCOPED_TRACE(longer);
    TwoReplicas two(prompt);
    // Neither is computed beyond its first chunk of 64 tokens.
    EXPECT_EQ(two.place(request_of(longer ? 100 : 180, 2, 21)), 0U);
    EXPECT_EQ(two.place(request_of(longer ? 180 : 100, 2, 22)), 1U);
    EXPECT_EQ(two.place(prompt), longer ? 0U : 1U) << "80 tokens more ahead, 64 saved";
    two.answer_all();
  }
}

TEST(Placement, AskingTheCacheChangesNothingInIt) {
  Bench bench(fake::small_config(), /*kv_blocks=*/8);
  const GenerateRequest old_prompt = request_of(33, 1, 1);  // 2 blocks stay
  const GenerateRequest new_prompt = request_of(33, 1, 2);
  bench.add(old_prompt);
  bench.run();
  bench.add(new_prompt);
  bench.run();
  const auto of_old = make_sequence(101, old_prompt);
  const auto of_new = make_sequence(102, new_prompt);
  const PrefixCacheCounts before = bench.scheduler.prefix_cache_counts();
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(bench.scheduler.n_cached(*of_new), 32);
    EXPECT_EQ(bench.scheduler.n_cached(*of_old), 32);
  }
  EXPECT_EQ(bench.scheduler.prefix_cache_counts().n_queried, before.n_queried);
  EXPECT_TRUE(of_old->kv.blocks.empty());
  bench.add(request_of(90, 1, 3));  // needs 6 of the 8 blocks, 4 of which are free
  bench.run();
  EXPECT_EQ(bench.scheduler.n_cached(*of_new), 32);
  EXPECT_LT(bench.scheduler.n_cached(*of_old), 32) << "the last used one was asked for last";
}

// ---- the latency target ----

// Steps of 20 ms, and half a millisecond a prompt token, on each stage: of a group that answers
// when told to.
struct Timed {
  explicit Timed(int n_stages, int32_t itl_target_ms)
      : world({script(n_stages)}, {}, 1000, 0, [&](InferenceCoreOptions& options) {
          options.itl_target_ms = itl_target_ms;
          options.scheduler.max_prefill_tokens = 56;
          options.clock = [this] {
            return std::chrono::steady_clock::time_point(std::chrono::microseconds(now_us));
          };
        }) {
    world.wait([this] { return world.n_up == 1; });
  }
  ~Timed() {
    for (const RequestId id : streams) world.core->cancel(id, FinishReason::kCancelled);
    world.settle();
  }

  void add_stream(uint64_t seed) {
    const Result<RequestId> id = world.submit(request_of(4, 240, seed));
    ASSERT_TRUE(id);
    streams.push_back(*id);
  }
  GroupScript script(int n_stages) {
    GroupScript script;
    script.answer = false;
    script.max_slots = 4;
    script.n_stages = n_stages;
    script.kills = [this](const StepPlan& plan) {
      int32_t n = 0;
      for (const SequencePlan& part : plan.sequences)
        n += part.input_ids.size() > 1 ? static_cast<int32_t>(part.input_ids.size()) : 0;
      chunks.push_back(n);
      return false;
    };
    return script;
  }
  void step() {
    world.on_thread([this] {
      if (n_answered == chunks.size()) return;
      now_us += 20000 + 500 * chunks[n_answered++];
      world.groups[0]->answer_one();
    });
  }
  // The chunks of a prompt of 200 tokens beside the streams.
  std::vector<int32_t> chunks_of_a_prompt(uint64_t seed) {
    const size_t n_before = chunks.size();
    EXPECT_TRUE(world.submit(request_of(200, 2, seed)));
    world.settle();
    for (int i = 0; i < 30; ++i) step();
    std::vector<int32_t> sizes(chunks.begin() + static_cast<std::ptrdiff_t>(n_before),
                               chunks.end());
    std::erase(sizes, 0);
    return sizes;
  }

  std::atomic<int64_t> now_us{1};
  std::vector<int32_t> chunks;
  size_t n_answered = 0;
  std::vector<RequestId> streams;
  World world;
};

TEST(LatencyTarget, PromptsBesideStreamsAreCutToKeepIt) {
  for (const int n_stages : {1, 2}) {
    SCOPED_TRACE(n_stages);
    Timed timed(n_stages, /*itl_target_ms=*/36 * n_stages);
    for (uint64_t seed = 1; seed <= 3; ++seed) timed.add_stream(seed);
    timed.world.settle();
    for (int i = 0; i < 10; ++i) timed.step();
    std::vector<int32_t> sizes;
    for (uint64_t seed = 10; seed < 14; ++seed) sizes = timed.chunks_of_a_prompt(seed);
    ASSERT_GE(sizes.size(), 6U);
    sizes.pop_back();  // what was left
    for (const int32_t n : sizes) EXPECT_NEAR(n, 32, 4) << "36 ms are 20 and 32 halves";
  }
}

TEST(LatencyTarget, WithoutOneChunksAreAsLargeAsTheyMayBe) {
  Timed timed(1, 0);
  timed.add_stream(1);
  timed.world.settle();
  for (int i = 0; i < 5; ++i) timed.step();
  EXPECT_EQ(timed.chunks_of_a_prompt(10), (std::vector<int32_t>{56, 56, 56, 32}));
}

}  // namespace
}  // namespace trireme
