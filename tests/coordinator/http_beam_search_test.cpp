#include "coordinator/http/beam_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

namespace trireme {
namespace {

constexpr int32_t kVocab = 5;
constexpr int32_t kEnd = 0;

// log p of each next token, a function of the tokens before.
std::vector<TokenLogprob> next_of(const std::vector<int32_t>& tokens, uint32_t seed) {
  std::vector<uint32_t> key(tokens.begin(), tokens.end());
  key.push_back(seed);
  std::seed_seq sequence(key.begin(), key.end());
  std::mt19937 random(sequence);
  std::vector<TokenLogprob> all;
  double total = 0;
  for (int32_t id = 0; id < kVocab; ++id) {
    all.push_back({.token_id = id, .logprob = static_cast<float>(random() % 1000) / 250.0F});
    total += std::exp(static_cast<double>(all.back().logprob));
  }
  for (TokenLogprob& token : all) token.logprob -= static_cast<float>(std::log(total));
  std::stable_sort(all.begin(), all.end(), [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob > b.logprob;
  });
  return all;
}

std::vector<BeamSearch::Beam> search(BeamSearch::Options options, uint32_t seed) {
  BeamSearch beams(std::move(options));
  while (!beams.done()) {
    std::vector<std::vector<TokenLogprob>> next;
    for (const BeamSearch::Beam& beam : beams.live()) {
      next.push_back(next_of(beam.token_ids, seed));
      next.back().resize(static_cast<size_t>(std::min(beams.n_candidates(), kVocab)));
    }
    beams.advance(next);
  }
  return beams.best();
}

double score(const std::vector<int32_t>& tokens, double sum, int32_t n_prompt, double penalty) {
  const double n_ends = !tokens.empty() && tokens.back() == kEnd ? 1 : 0;
  return sum / std::pow(n_prompt + static_cast<double>(tokens.size()) - n_ends, penalty);
}

// A width that drops nothing finds the best of all continuations.
TEST(BeamSearch, WideEnoughItFindsTheBestOfAll) {
  constexpr int kMaxNew = 3;
  constexpr int32_t kPrompt = 4;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    for (const float penalty : {0.0F, 1.0F, 3.0F, -1.0F}) {
      std::vector<std::pair<double, std::vector<int32_t>>> all;
      const auto walk = [&](const auto& self, const std::vector<int32_t>& tokens,
                            double sum) -> void {
        const bool ended = !tokens.empty() && tokens.back() == kEnd;
        if (ended || tokens.size() == kMaxNew) {
          all.emplace_back(score(tokens, sum, kPrompt, static_cast<double>(penalty)), tokens);
          return;
        }
        for (const TokenLogprob& token : next_of(tokens, seed)) {
          std::vector<int32_t> longer = tokens;
          longer.push_back(token.token_id);
          self(self, longer, sum + static_cast<double>(token.logprob));
        }
      };
      walk(walk, {}, 0.0);
      std::stable_sort(all.begin(), all.end(),
                       [](const auto& a, const auto& b) { return a.first > b.first; });
      const auto best = search({.width = 200,
                                .n_prompt = kPrompt,
                                .max_new_tokens = kMaxNew,
                                .length_penalty = penalty,
                                .end_token_ids = {kEnd}},
                               seed);
      for (size_t i = 0; i < 5; ++i) {
        EXPECT_NEAR(score(best[i].token_ids, best[i].sum, kPrompt, static_cast<double>(penalty)),
                    all[i].first, 1e-9)
            << seed << " " << penalty << " " << i;
        EXPECT_EQ(best[i].ended, best[i].token_ids.back() == kEnd);
      }
    }
  }
}

TEST(BeamSearch, OfWidthOneIsGreedy) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const auto best = search({.width = 1, .n_prompt = 2, .max_new_tokens = 6}, seed);
    ASSERT_EQ(best.size(), 1U);
    std::vector<int32_t> greedy;
    for (int i = 0; i < 6; ++i) greedy.push_back(next_of(greedy, seed).front().token_id);
    EXPECT_EQ(best[0].token_ids, greedy);
    EXPECT_EQ(best[0].logprobs.size(), 6U);
    EXPECT_EQ(best[0].top_logprobs.size(), 6U);
  }
}

TEST(BeamSearch, BeamsDifferAndComeBestFirst) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const auto best =
        search({.width = 4, .n_prompt = 3, .max_new_tokens = 5, .end_token_ids = {kEnd}}, seed);
    ASSERT_EQ(best.size(), 4U);
    std::set<std::vector<int32_t>> different;
    for (size_t i = 0; i < best.size(); ++i) {
      different.insert(best[i].token_ids);
      if (i == 0) continue;
      EXPECT_GE(score(best[i - 1].token_ids, best[i - 1].sum, 3, 1.0),
                score(best[i].token_ids, best[i].sum, 3, 1.0));
    }
    EXPECT_EQ(different.size(), 4U);
  }
}

// At each step every beam also ends, in each of two ways: many more ends than the search keeps.
TEST(BeamSearch, TheBestEndsOfAllStepsAreKept) {
  BeamSearch beams({.width = 2,
                    .n_prompt = 1,
                    .max_new_tokens = 6,
                    .length_penalty = 0.0F,
                    .end_token_ids = {0, 1},
                    .n_told = 1});
  for (int step = 1; step <= 6; ++step) {
    const float end = step == 2 || step == 4 ? -0.25F : -8.0F;
    const std::vector<TokenLogprob> next = {{2, -0.125F}, {0, end}, {1, end - 4.0F}, {3, -50.0F}};
    beams.advance(std::vector<std::vector<TokenLogprob>>(beams.live().size(), next));
  }
  const std::vector<BeamSearch::Beam> best = beams.best();
  ASSERT_EQ(best.size(), 2U);
  EXPECT_EQ(best[0].token_ids, (std::vector<int32_t>{2, 0}));
  EXPECT_EQ(best[1].token_ids, (std::vector<int32_t>{2, 2, 2, 0}));
  EXPECT_TRUE(best[0].ended && best[1].ended);
  for (const std::vector<TokenLogprob>& told : best[1].top_logprobs) {
    ASSERT_EQ(told.size(), 1U);
    EXPECT_EQ(told[0].token_id, 2);
  }
}

TEST(BeamSearch, WithoutTokensThereIsOneEmptyBeam) {
  BeamSearch beams({.width = 3, .n_prompt = 1, .max_new_tokens = 0});
  EXPECT_TRUE(beams.done());
  ASSERT_EQ(beams.best().size(), 1U);
  EXPECT_TRUE(beams.best()[0].token_ids.empty());
}

}  // namespace
}  // namespace trireme
