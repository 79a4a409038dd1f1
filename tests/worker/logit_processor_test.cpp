#include "worker/logit_processor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "worker/sampler.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

constexpr float kBanned = -std::numeric_limits<float>::infinity();

SequencePlan plan_with(LogitRules rules, std::vector<TokenCount> seen = {},
                       std::vector<int32_t> tail = {}) {
  SequencePlan plan;
  plan.reset_slot = true;
  plan.slot_rules =
      std::make_shared<SlotRules>(SlotRules{.rules = std::make_shared<LogitRules>(std::move(rules)),
                                            .seen = std::move(seen),
                                            .output_tail = std::move(tail)});
  return plan;
}

std::vector<float> copy_of(std::span<const float> values) { return {values.begin(), values.end()}; }

TEST(LogitProcessor, WithoutRulesTheLogitsAreUntouched) {
  LogitProcessor processor(2, 4, 16);
  const std::vector<float> logits = {1, 2, 3, 4};
  processor.begin(SequencePlan{.reset_slot = true});
  EXPECT_EQ(processor.apply(0, 0, logits).data(), logits.data());
  processor.add(0, 3);
  EXPECT_EQ(processor.apply(0, 1, logits).data(), logits.data());
}

TEST(LogitProcessor, RulesEndWithTheirSequence) {
  LogitProcessor processor(2, 4, 16);
  const std::vector<float> logits = {1, 2, 3, 4};
  processor.begin(plan_with({.presence_penalty = 1.0F}, {{.token_id = 3, .n_output = 1}}));
  EXPECT_EQ(processor.apply(0, 1, logits)[3], 3.0F);
  SequencePlan next;  // of the same sequence
  processor.begin(next);
  EXPECT_EQ(processor.apply(0, 2, logits)[3], 3.0F);
  next.reset_slot = true;
  processor.begin(next);
  EXPECT_EQ(processor.apply(0, 0, logits).data(), logits.data());
}

TEST(LogitProcessor, CountsWhatIsDrawn) {
  LogitProcessor processor(1, 4, 16);
  const std::vector<float> logits = {4, -2, 4, 4};
  processor.begin(
      plan_with({.presence_penalty = 1.0F, .frequency_penalty = 0.5F, .repetition_penalty = 2.0F},
                {{.token_id = 0, .n_output = 0}, {.token_id = 1, .n_output = 2}}));
  EXPECT_EQ(copy_of(processor.apply(0, 2, logits)), (std::vector<float>{2, -6, 4, 4}));
  processor.add(0, 2);
  processor.add(0, 0);
  EXPECT_EQ(copy_of(processor.apply(0, 4, logits)), (std::vector<float>{0.5F, -6, 0.5F, 4}));
  processor.add(0, 2);
  EXPECT_EQ(processor.apply(0, 5, logits)[2], 0.0F);
}

TEST(LogitProcessor, BansTheLastTokenOfABadWordThatIsBegun) {
  LogitProcessor processor(1, 5, 16);
  const std::vector<float> logits = {1, 1, 1, 1, 1};
  LogitRules rules;
  rules.bad_words = {{4}, {0, 1}, {2, 0, 3}};
  const auto banned = [&](int32_t output_index) {
    std::vector<int32_t> ids;
    const auto changed = processor.apply(0, output_index, logits);
    for (int32_t id = 0; id < 5; ++id) {
      if (changed[static_cast<size_t>(id)] == kBanned) ids.push_back(id);
    }
    return ids;
  };
  processor.begin(plan_with(rules, {}, {2}));
  EXPECT_EQ(banned(1), (std::vector<int32_t>{4}));
  processor.add(0, 0);
  EXPECT_EQ(banned(2), (std::vector<int32_t>{1, 3, 4}));
  processor.add(0, 0);
  EXPECT_EQ(banned(3), (std::vector<int32_t>{1, 4}));
}

TEST(LogitProcessor, BansEndsUntilEnoughTokensAreDrawn) {
  LogitProcessor processor(1, 3, 16);
  const std::vector<float> logits = {1, 2, 3};
  LogitRules rules{.min_tokens = 2, .end_token_ids = {2}};
  processor.begin(plan_with(rules));
  EXPECT_EQ(processor.apply(0, 1, logits)[2], kBanned);
  EXPECT_EQ(processor.apply(0, 2, logits)[2], 3.0F);
}

TEST(LogitProcessor, WhereNothingAllowedIsLeftBansDoNotHold) {
  LogitProcessor processor(1, 3, 16);
  const std::vector<float> logits = {5, 2, 3};
  LogitRules rules{.min_tokens = 9, .end_token_ids = {2}, .allowed_token_ids = {2}};
  processor.begin(plan_with(rules));
  EXPECT_EQ(copy_of(processor.apply(0, 0, logits)), (std::vector<float>{kBanned, kBanned, 3}));
}

// ---- against transformers: scripts/golden/generate_sampling.py ----

Json golden() {
  std::ifstream file(TRIREME_SOURCE_DIR "/tests/data/sampling/processors.json");
  return Json::parse(file);
}

LogitRules rules_of(const Json& json) {
  LogitRules rules;
  rules.presence_penalty = json.value("presence_penalty", 0.0F);
  rules.frequency_penalty = json.value("frequency_penalty", 0.0F);
  rules.repetition_penalty = json.value("repetition_penalty", 1.0F);
  rules.min_tokens = json.value("min_tokens", 0);
  rules.end_token_ids = json.value("end_token_ids", std::vector<int32_t>());
  for (const Json& row : json.value("biases", Json::array()))
    rules.biases.push_back({.token_id = row[0], .bias = row[1]});
  rules.allowed_token_ids = json.value("allowed_token_ids", std::vector<int32_t>());
  rules.bad_words = json.value("bad_words", std::vector<std::vector<int32_t>>());
  return rules;
}

// The output is drawn token by token, or known from the beginning.
std::vector<float> processed(const Json& row, int32_t vocab_size, bool drawn) {
  LogitProcessor processor(1, vocab_size, 64);
  const auto output = row["output_ids"].get<std::vector<int32_t>>();
  std::map<int32_t, int32_t> counts;
  for (const int32_t id : row["prompt_ids"].get<std::vector<int32_t>>()) counts[id] = 0;
  if (!drawn) {
    for (const int32_t id : output) ++counts[id];
  }
  const LogitRules rules = rules_of(row["rules"]);
  std::vector<TokenCount> seen;
  for (const auto& [id, n] : counts) seen.push_back({.token_id = id, .n_output = n});
  if (!rules.has_penalties()) seen.clear();
  const size_t n_tail = drawn ? 0 : std::min(rules.n_tail(), output.size());
  processor.begin(
      plan_with(rules, seen, {output.end() - static_cast<std::ptrdiff_t>(n_tail), output.end()}));
  if (drawn) {
    for (const int32_t id : output) processor.add(0, id);
  }
  const auto logits = row["logits"].get<std::vector<float>>();
  return copy_of(processor.apply(0, static_cast<int32_t>(output.size()), logits));
}

TEST(LogitProcessor, GivesWhatTransformersGives) {
  const Json all = golden();
  const int32_t vocab_size = all["vocab_size"];
  ASSERT_GT(all["cases"].size(), 100U);
  for (size_t i = 0; i < all["cases"].size(); ++i) {
    const Json& row = all["cases"][i];
    for (const bool drawn : {false, true}) {
      const std::vector<float> got = processed(row, vocab_size, drawn);
      for (size_t id = 0; id < got.size(); ++id) {
        const Json& want = row["processed"][id];
        if (want.is_null()) {
          EXPECT_EQ(got[id], kBanned) << i << " " << id << " " << row["rules"];
        } else {
          EXPECT_NEAR(got[id], want.get<float>(), 1e-4F) << i << " " << id << " " << row["rules"];
        }
      }
    }
  }
}

TEST(LogitProcessor, DrawsFromTheDistributionOfTransformers) {
  constexpr int kDraws = 4000;
  const Json all = golden();
  const int32_t vocab_size = all["vocab_size"];
  Sampler sampler(*cpu_kernels(), vocab_size);
  for (size_t i = 0; i < all["cases"].size(); ++i) {
    const Json& row = all["cases"][i];
    const Json& params = row["params"];
    const std::vector<float> logits = processed(row, vocab_size, false);
    std::vector<int> counts(logits.size());
    for (int n = 0; n < kDraws; ++n) {
      const SamplingParams sampling{.temperature = params["temperature"],
                                    .top_p = params["top_p"],
                                    .top_k = params["top_k"],
                                    .seed = static_cast<uint64_t>(n),
                                    .min_p = params["min_p"]};
      ++counts[static_cast<size_t>(sampler.sample(logits, sampling, 0, 0))];
    }
    for (size_t id = 0; id < counts.size(); ++id) {
      const double p = row["probabilities"][id];
      const double share = counts[id] / static_cast<double>(kDraws);
      const double deviation = std::sqrt(p * (1 - p) / kDraws);
      EXPECT_NEAR(share, p, 5 * deviation + 1e-3) << i << " " << id << " " << params;
      EXPECT_TRUE(p > 0 || counts[id] == 0) << i << " " << id << " " << params;
    }
  }
}

}  // namespace
}  // namespace trireme
