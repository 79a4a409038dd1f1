#include "coordinator/serving/chunk_budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace trireme {
namespace {

constexpr int32_t kMost = 512;
constexpr double kTargetMs = 50;

// Ranks whose steps take 20 ms, and 0.1 ms a prompt token, times what disturbs them.
struct Ranks {
  std::mt19937_64 random{1};
  double noise = 0.15;
  double slower = 1.0;
  double ms(int32_t n_prompt_tokens) {
    const double by = std::uniform_real_distribution<double>(1 - noise, 1 + noise)(random);
    return (20 + 0.1 * n_prompt_tokens) * by * slower;
  }
};

void decode(ChunkBudget& budget, Ranks& ranks, int n_steps) {
  for (int i = 0; i < n_steps; ++i) budget.observe(0, ranks.ms(0));
}

// Steps with chunks as large as they may be; how long each took.
std::vector<double> prefill(ChunkBudget& budget, Ranks& ranks, int n_steps) {
  std::vector<double> times;
  for (int i = 0; i < n_steps; ++i) {
    const int32_t n = budget.n_tokens();
    EXPECT_GE(n, ChunkBudget::kSmallestChunk);
    EXPECT_LE(n, kMost);
    times.push_back(ranks.ms(n));
    budget.observe(n, times.back());
  }
  return times;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

TEST(ChunkBudget, BeginsSmallAndAtMostDoubles) {
  ChunkBudget budget(kTargetMs, kMost);
  EXPECT_EQ(budget.n_tokens(), ChunkBudget::kSmallestChunk);
  budget.observe(0, 20);
  EXPECT_EQ(budget.n_tokens(), ChunkBudget::kSmallestChunk) << "nothing is known of prompts";
  int32_t last = budget.n_tokens();
  for (int i = 0; i < 20; ++i) {
    budget.observe(last, 20 + 0.1 * last);
    EXPECT_LE(budget.n_tokens(), 2 * last);
    last = budget.n_tokens();
  }
  EXPECT_NEAR(last, 300, 30);
}

TEST(ChunkBudget, WholeChunksShowWhatATokenCosts) {
  ChunkBudget budget(kTargetMs, kMost);
  budget.observe(0, 20);
  budget.observe(kMost, 20 + 0.1 * kMost);  // without streams
  EXPECT_NEAR(budget.n_tokens(), 300, 3);
}

TEST(ChunkBudget, KeepsTheTargetUnderNoise) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    ChunkBudget budget(kTargetMs, kMost);
    Ranks ranks;
    ranks.random.seed(seed);
    decode(budget, ranks, 20);
    prefill(budget, ranks, 15);  // by then it knows
    const std::vector<double> times = prefill(budget, ranks, 300);
    const auto n_kept =
        std::count_if(times.begin(), times.end(), [](double ms) { return ms <= kTargetMs; });
    EXPECT_GT(n_kept, 210) << "of 300 steps";
    EXPECT_GT(mean(times), 0.8 * kTargetMs) << "room is left unused";
    EXPECT_LT(mean(times), kTargetMs);
  }
}

// What it takes a step to cost without prompts is wrong: none was ever seen, or those that were
// seen took three times as long as they do now.
TEST(ChunkBudget, AWrongBaseIsMadeUpFor) {
  for (const bool any : {false, true}) {
    SCOPED_TRACE(any);
    ChunkBudget budget(kTargetMs, kMost);
    Ranks ranks;
    ranks.slower = 3;
    if (any) decode(budget, ranks, 20);
    ranks.slower = 1;
    prefill(budget, ranks, 40);
    const double took = mean(prefill(budget, ranks, 200));
    EXPECT_GT(took, 0.75 * kTargetMs);
    EXPECT_LT(took, kTargetMs);
  }
}

TEST(ChunkBudget, GoesDownWhileTheRanksAreSlowAndComesBack) {
  ChunkBudget budget(kTargetMs, kMost);
  Ranks ranks;
  decode(budget, ranks, 20);
  prefill(budget, ranks, 40);
  const int32_t before = budget.n_tokens();
  ranks.slower = 3;  // even without prompts, beyond the target
  prefill(budget, ranks, 20);
  EXPECT_EQ(budget.n_tokens(), ChunkBudget::kSmallestChunk);
  decode(budget, ranks, 20);
  EXPECT_EQ(budget.n_tokens(), ChunkBudget::kSmallestChunk);
  ranks.slower = 1;
  prefill(budget, ranks, 40);
  EXPECT_GT(budget.n_tokens(), before / 2);
  EXPECT_GT(mean(prefill(budget, ranks, 100)), 0.75 * kTargetMs);
}

TEST(ChunkBudget, AHiccupIsForgottenSoon) {
  ChunkBudget budget(kTargetMs, kMost);
  Ranks ranks;
  decode(budget, ranks, 20);
  prefill(budget, ranks, 40);
  const int32_t before = budget.n_tokens();
  budget.observe(before, 5000);
  prefill(budget, ranks, 15);
  EXPECT_GT(budget.n_tokens(), before / 2);
}

TEST(ChunkBudget, StaysInItsBoundsWhateverItIsTold) {
  std::mt19937_64 random(7);
  for (const int32_t most : {1, 8, 16, 100, 65536}) {
    ChunkBudget budget(kTargetMs, most);
    for (int i = 0; i < 2000; ++i) {
      EXPECT_GE(budget.n_tokens(), std::min(most, ChunkBudget::kSmallestChunk));
      EXPECT_LE(budget.n_tokens(), most);
      const std::vector<double> times = {0, 1e-9, 1, 50, 1e3, 1e7};
      budget.observe(static_cast<int32_t>(random() % 3 == 0 ? 0 : random() % 70000),
                     times[random() % times.size()]);
    }
  }
}

}  // namespace
}  // namespace trireme
