#include "worker/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

namespace trireme {
namespace {

std::vector<float> random_logits(int32_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 3.0F);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = normal(random);
  return out;
}

// How often each token comes out of n draws.
std::map<int32_t, int> draw_many(Sampler& sampler, const std::vector<float>& logits,
                                 SamplingParams params, int n) {
  std::map<int32_t, int> counts;
  for (int i = 0; i < n; ++i) {
    params.seed = static_cast<uint64_t>(i);
    ++counts[sampler.sample(logits, params, 0, 0)];
  }
  return counts;
}

TEST(Sampler, GreedyTakesTheLowestOfTies) {
  Sampler sampler(*cpu_kernels(), 5);
  const std::vector<float> logits = {1, 7, 3, 7, 7};
  EXPECT_EQ(sampler.sample(logits, {.temperature = 0.0F}, 0, 0), 1);
  EXPECT_EQ(sampler.sample(logits, {.temperature = 1.0F, .top_k = 1}, 0, 0), 1);
}

TEST(Sampler, FollowsTheDistribution) {
  Sampler sampler(*cpu_kernels(), 4);
  const std::vector<float> logits = {std::log(0.5F), std::log(0.3F), std::log(0.15F),
                                     std::log(0.05F)};
  constexpr int kDraws = 20000;
  const auto counts = draw_many(sampler, logits, {.temperature = 1.0F}, kDraws);
  for (int32_t t = 0; t < 4; ++t) {
    const double p = std::exp(static_cast<double>(logits[static_cast<size_t>(t)]));
    EXPECT_NEAR(counts.at(t) / static_cast<double>(kDraws), p, 0.015) << t;
  }
}

TEST(Sampler, CutsToTopKAndTopP) {
  Sampler sampler(*cpu_kernels(), 4);
  const std::vector<float> logits = {std::log(0.05F), std::log(0.5F), std::log(0.15F),
                                     std::log(0.3F)};
  const auto top_k = draw_many(sampler, logits, {.temperature = 1.0F, .top_k = 2}, 3000);
  EXPECT_EQ(top_k.size(), 2U);
  EXPECT_EQ(top_k.count(1) + top_k.count(3), 2U);
  // 0.5 + 0.3 holds 0.75; with a little more the third is needed.
  const auto top_p = draw_many(sampler, logits, {.temperature = 1.0F, .top_p = 0.75F}, 3000);
  EXPECT_EQ(top_p.size(), 2U);
  const auto wider = draw_many(sampler, logits, {.temperature = 1.0F, .top_p = 0.85F}, 3000);
  EXPECT_EQ(wider.size(), 3U);
  EXPECT_EQ(wider.count(0), 0U);
}

// Ordering few candidates at first must not change what ordering all of them would give.
TEST(Sampler, LargeVocabulariesGiveWhatFullOrderingGives) {
  constexpr int32_t kVocab = 5000;
  Sampler sampler(*cpu_kernels(), kVocab);
  const auto logits = random_logits(kVocab, 3);
  for (const float top_p : {0.3F, 0.9F, 0.999F}) {
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const SamplingParams cut{.temperature = 2.0F, .top_p = top_p, .top_k = 0, .seed = seed};
      SamplingParams full = cut;
      full.top_k = kVocab - 1;  // orders all but one before top_p is applied
      EXPECT_EQ(sampler.sample(logits, cut, 1, 2), sampler.sample(logits, full, 1, 2))
          << top_p << " " << seed;
    }
  }
}

TEST(Sampler, TopTokensAreOrderedAndNormalised) {
  Sampler sampler(*cpu_kernels(), 4);
  std::vector<TokenLogprob> top;
  sampler.top_tokens(std::vector<float>{1, 3, 3, 2}, 4.0F, 3, top);
  ASSERT_EQ(top.size(), 3U);
  EXPECT_EQ(top[0].token_id, 1);
  EXPECT_EQ(top[1].token_id, 2);
  EXPECT_EQ(top[2].token_id, 3);
  EXPECT_FLOAT_EQ(top[0].logprob, -1.0F);
  sampler.top_tokens(std::vector<float>{1, 3, 3, 2}, 4.0F, 99, top);
  EXPECT_EQ(top.size(), 4U);
}

}  // namespace
}  // namespace trireme
