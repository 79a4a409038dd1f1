// An embedding is the same, bit for bit, on every layout, in every batch, however the prompt is cut
// and wherever its KV came from; and it is what transformers computes
// (scripts/golden/generate_embeddings.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "model/classifier_head.h"
#include "model/weight_format.h"
#include "tests/layouts/scheduled_run.h"

namespace trireme::test {
namespace {

using Json = nlohmann::json;

constexpr double kLimit = 1e-3;  // of the largest number, as for logits in tests/golden

GenerateRequest embedding_of(std::vector<int32_t> prompt_ids) {
  GenerateRequest request;
  request.prompt_ids = std::move(prompt_ids);
  request.max_new_tokens = 0;
  request.want_embedding = true;
  return request;
}

// Prompts that begin alike, among requests that draw tokens.
std::vector<GenerateRequest> make_requests(int32_t vocab_size) {
  std::mt19937 random(5);
  std::vector<int32_t> stem;
  const auto extend = [&](std::vector<int32_t> ids, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i)
      ids.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
    return ids;
  };
  stem = extend({}, 48);
  std::vector<GenerateRequest> requests;
  for (const uint32_t n : {1U, 16U, 90U, 130U, 0U, 17U}) {
    requests.push_back(embedding_of(n == 0 ? stem : extend(stem, n)));
    requests.push_back(embedding_of(extend({}, n + 1)));
    GenerateRequest& drawn = requests.emplace_back();
    drawn.prompt_ids = extend(stem, n + 5);
    drawn.max_new_tokens = 8;
    drawn.ignore_eos = true;
  }
  requests.push_back(requests.front());  // all of it is cached but the last token
  return requests;
}

Answers run(const std::shared_ptr<const PackedModel>& file, Layout layout, bool prefix_cache,
            TestPerturbation perturbation, PrefixCacheCounts* counts = nullptr) {
  ScheduledRun all{.file = file,
                   .layout = layout,
                   .limits = {},
                   .perturbation = perturbation,
                   .prefix_cache = prefix_cache,
                   .n_results_between = prefix_cache ? 2 : 0};
  if (perturbation.seed != 0) all.limits.kv_blocks = 20;
  Answers answers = all.answer(make_requests(file->config().vocab_size));
  if (counts != nullptr) *counts = all.counts;
  return answers;
}

struct Case {
  const char* model;
  WeightFormat format;
};

class EmbeddingIdentityTest : public testing::TestWithParam<Case> {
 protected:
  TemporaryPackedModel packed_{std::string(TRIREME_SOURCE_DIR "/tests/golden/") + GetParam().model,
                               GetParam().format};
};

TEST_P(EmbeddingIdentityTest, EveryLayoutChunkingBatchPreemptionAndCacheHit) {
  const auto& file = packed_.file();
  const Answers expected = run(file, {1, 1}, false, {});
  const std::vector<GenerateRequest> requests = make_requests(file->config().vocab_size);
  for (const auto& [id, answer] : expected) {
    const bool wanted = requests[id - 1].want_embedding;
    ASSERT_EQ(answer.embedding.size(),
              wanted ? static_cast<size_t>(file->config().hidden_size) : 0);
    ASSERT_EQ(answer.finish, wanted ? FinishReason::kStop : FinishReason::kLength);
  }
  EXPECT_NE(expected.at(1).embedding, expected.at(2).embedding);
  uint64_t seed = 0;
  for (const Layout& layout : {Layout{1, 1}, Layout{2, 1}, Layout{1, 2}, Layout{2, 2}}) {
    const std::string where =
        "tp " + std::to_string(layout.tp) + " pp " + std::to_string(layout.pp);
    PrefixCacheCounts counts;
    expect_same(expected, run(file, layout, true, {}, &counts), where);
    EXPECT_GT(counts.n_hit, 300U) << where;
    expect_same(expected,
                run(file, layout, seed % 2 == 0,
                    {.seed = ++seed,
                     .random_chunks = true,
                     .shuffle_batch = true,
                     .preempt_probability = 0.05}),
                where + " perturbed");
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EmbeddingIdentityTest,
                         testing::Values(Case{"llama", WeightFormat::kBF16},
                                         Case{"mistral-window", WeightFormat::kF32},
                                         Case{"qwen3", WeightFormat::kI8}),
                         [](const testing::TestParamInfo<Case>& param) {
                           std::string name = param.param.model;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name + "_" + weight_format_name(param.param.format);
                         });

Json golden() {
  std::ifstream file(TRIREME_SOURCE_DIR "/tests/data/embeddings/hidden.json");
  return Json::parse(file);
}

// One prompt after the other, on one rank in float32.
std::vector<std::vector<float>> embeddings_of(const std::filesystem::path& model,
                                              const Json& prompts) {
  const TemporaryPackedModel packed(model, WeightFormat::kF32);
  std::vector<GenerateRequest> requests;
  for (const Json& prompt : prompts)
    requests.push_back(embedding_of(prompt["input_ids"].get<std::vector<int32_t>>()));
  ScheduledRun all{.file = packed.file(), .layout = {1, 1}, .limits = {}, .perturbation = {}};
  std::vector<std::vector<float>> embeddings;
  for (auto& [id, answer] : all.answer(requests)) embeddings.push_back(answer.embedding);
  return embeddings;
}

void expect_near(const std::vector<float>& got, const std::vector<double>& want,
                 const std::string& where) {
  ASSERT_EQ(got.size(), want.size()) << where;
  double largest = 0;
  for (const double value : want) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_NEAR(static_cast<double>(got[i]), want[i], kLimit * largest) << where << " " << i;
}

TEST(GoldenEmbedding, IsTransformersLastHiddenState) {
  const Json models = golden()["models"];
  EXPECT_EQ(models.size(), 4U);
  for (const auto& [name, prompts] : models.items()) {
    const auto got = embeddings_of(TRIREME_SOURCE_DIR "/tests/golden/" + name, prompts);
    for (size_t i = 0; i < got.size(); ++i)
      expect_near(got[i], prompts[i]["hidden"].get<std::vector<double>>(),
                  name + " " + std::to_string(i));
  }
}

TEST(GoldenEmbedding, ClassesAreTransformers) {
  const std::filesystem::path folder = TRIREME_SOURCE_DIR "/tests/data/embeddings/classifier";
  const auto head = load_classifier_head(model_place(folder));
  ASSERT_NE(head, nullptr);
  const Json all = golden();
  EXPECT_EQ(head->labels, all["labels"].get<std::vector<std::string>>());
  const auto got = embeddings_of(folder, all["classes"]);
  for (size_t i = 0; i < got.size(); ++i) {
    expect_near(head->probabilities(got[i]), all["classes"][i]["probs"].get<std::vector<double>>(),
                std::to_string(i));
  }
}

}  // namespace
}  // namespace trireme::test
