#include "worker/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "worker/philox.h"

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

// As if the other tokens were not there, whatever cuts the candidates.
TEST(Sampler, AMaskLeavesNothingElse) {
  constexpr int32_t kVocab = 100;
  Sampler sampler(*cpu_kernels(), kVocab);
  const auto logits = random_logits(kVocab, 5);
  std::vector<uint32_t> mask((kVocab + 31) / 32);
  std::vector<float> few;
  std::vector<int32_t> ids;
  for (int32_t id = 1; id < kVocab; id += 7) {
    mask[static_cast<size_t>(id) / 32] |= 1U << (id % 32);
    few.push_back(logits[static_cast<size_t>(id)]);
    ids.push_back(id);
  }
  mask[kVocab / 32] |= 0xFFFFFFFFU << (kVocab % 32);  // bits of no token
  Sampler of_few(*cpu_kernels(), static_cast<int32_t>(few.size()));
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 0.0F}, SamplingParams{.temperature = 1.5F},
        SamplingParams{.temperature = 1.0F, .top_k = 4},
        SamplingParams{.temperature = 2.0F, .top_p = 0.7F},
        SamplingParams{.temperature = 1.0F, .top_p = 0.9F, .top_k = 50}}) {
    for (uint32_t i = 0; i < 300; ++i) {
      const int32_t token = sampler.sample_masked(logits, mask, params, 0, i);
      EXPECT_EQ(token, ids[static_cast<size_t>(of_few.sample(few, params, 0, i))]);
    }
  }
}

TEST(Sampler, NeverLeavesTheMaskWhateverTheLogitsAre) {
  constexpr int32_t kVocab = 64;
  Sampler sampler(*cpu_kernels(), kVocab);
  std::vector<uint32_t> mask(2);
  mask[1] = 1U << 9 | 1U << 20;
  for (const float there :
       {-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), -1e30F}) {
    std::vector<float> logits(kVocab, 5.0F);
    logits[41] = logits[52] = there;
    for (const float temperature : {0.0F, 1.0F}) {
      const int32_t token = sampler.sample_masked(logits, mask, {.temperature = temperature}, 0, 0);
      EXPECT_TRUE(token == 41 || token == 52) << token;
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

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// All ids whose logit is a number, most likely first, ties by id.
std::vector<int32_t> full_order(const std::vector<float>& logits) {
  std::vector<int32_t> order;
  for (int32_t i = 0; i < static_cast<int32_t>(logits.size()); ++i) {
    if (!std::isnan(logits[static_cast<size_t>(i)])) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  return order;
}

// What Sampler::sample must give, the plain way: order everything, cut, add up, draw. What is not
// cut is drawn in the order of the ids.
int32_t reference_sample(const std::vector<float>& logits, const SamplingParams& params,
                         uint32_t choice, uint32_t output_index) {
  std::vector<int32_t> order = full_order(logits);
  if (order.empty()) return 0;
  const int32_t best = order[0];
  if (params.temperature < 1e-4F || params.top_k == 1) return best;

  std::vector<float> exps(logits.size());
  const auto vocab = static_cast<int64_t>(logits.size());
  cpu_kernels()->scaled_exp({}, make_tensor(exps.data(), DType::kF32, {vocab}),
                            make_tensor(const_cast<float*>(logits.data()), DType::kF32, {vocab}),
                            logits[static_cast<size_t>(best)], 1.0F / params.temperature);
  const auto weight = [&](int32_t id) {
    return static_cast<double>(exps[static_cast<size_t>(id)]);
  };

  const bool cut_k = params.top_k > 0 && params.top_k < vocab;
  if (cut_k) order.resize(std::min(order.size(), static_cast<size_t>(params.top_k)));
  double mass = 0;
  for (const int32_t id : order) mass += weight(id);
  if (params.top_p < 1.0F) {
    double kept = 0;
    size_t n = 0;
    while (n < order.size() && (n == 0 || kept < static_cast<double>(params.top_p) * mass)) {
      kept += weight(order[n++]);
    }
    order.resize(n);
    mass = kept;
  } else if (!cut_k) {
    std::sort(order.begin(), order.end());
  }
  if (mass == 0) return best;  // an infinite logit, or nothing but minus infinity
  const double target = sampling_noise(params.seed, choice, output_index) * mass;
  double sum = 0;
  for (const int32_t id : order) {
    sum += weight(id);
    if (sum > target) return id;
  }
  ADD_FAILURE() << "the noise reaches 1";
  return -1;
}

// Rows as models, masks and faults make them: spread out or flat, with ties, masked, infinite, not
// numbers (the first one too), few or many.
std::vector<float> odd_logits(std::mt19937& random) {
  const auto any = [&](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
  constexpr int kSizes[] = {1, 2, 15, 16, 17, 33, 300, 2000};
  constexpr float kSpreads[] = {0.0F, 0.1F, 3.0F, 30.0F, 1e4F};
  std::vector<float> logits(static_cast<size_t>(kSizes[any(8)]));
  std::normal_distribution<float> normal(0.0F, 1.0F);
  const float spread = kSpreads[any(5)];
  const float offset = any(4) == 0 ? -300.0F : 0.0F;
  const bool ties = any(3) == 0;
  for (float& x : logits) {
    x = normal(random) * spread + offset;
    if (ties) x = std::round(x);
  }
  const auto put = [&](float value, int one_in) {
    for (float& x : logits) {
      if (any(one_in) == 0) x = value;
    }
  };
  constexpr int kDensities[] = {1, 2, 10, 300};
  if (any(3) == 0) put(-kInfinity, kDensities[any(4)]);
  if (any(4) == 0) put(kNan, kDensities[any(4)]);
  if (any(4) == 0) logits[0] = kNan;
  if (any(10) == 0) put(kInfinity, 50);
  return logits;
}

TEST(Sampler, GivesWhatAFullSortGives) {
  constexpr int kCases = 4000;
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  constexpr float kTemperatures[] = {0.0F, 1e-5F, 1.001e-4F, 0.01F, 0.7F,
                                     1.0F, 2.0F,  100.0F,    1e30F};
  constexpr float kTopPs[] = {1e-30F, 0.01F, 0.5F, 0.9F, 0.9999F, 0.99999994F, 1.0F, 1.0F};
  constexpr int32_t kTopKs[] = {0, 0, 1, 2, 5, 40, 299, 5000};
  for (int i = 0; i < kCases; ++i) {
    const std::vector<float> logits = odd_logits(random);
    const SamplingParams params{.temperature = kTemperatures[random() % 9],
                                .top_p = kTopPs[random() % 8],
                                .top_k = kTopKs[random() % 8],
                                .seed = random()};
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", case " << i << ", vocabulary "
                                    << logits.size() << ", temperature " << params.temperature
                                    << ", top_p " << params.top_p << ", top_k " << params.top_k);
    Sampler sampler(*cpu_kernels(), static_cast<int32_t>(logits.size()));
    const auto choice = static_cast<uint32_t>(i % 3);
    ASSERT_EQ(sampler.sample(logits, params, choice, 7),
              reference_sample(logits, params, choice, 7));

    std::vector<TokenLogprob> top;
    const auto n = static_cast<int32_t>(random() % 25);
    sampler.top_tokens(logits, 0.0F, n, top);
    const std::vector<int32_t> order = full_order(logits);
    ASSERT_EQ(top.size(), std::min(order.size(), static_cast<size_t>(n)));
    for (size_t j = 0; j < top.size(); ++j) ASSERT_EQ(top[j].token_id, order[j]) << j;
  }
}

}  // namespace
}  // namespace trireme
