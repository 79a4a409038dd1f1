// Whether KV was found or computed makes no difference to one bit: tokens, log-probabilities and
// logits are the same with the prefix cache and without it, on every layout.

#include <gtest/gtest.h>

#include <random>

#include "model/weight_format.h"
#include "tests/layouts/scheduled_run.h"

namespace trireme::test {
namespace {

struct Case {
  const char* model;
  WeightFormat format;
  DType kv_dtype;
};

class PrefixCacheIdentityTest : public testing::TestWithParam<Case> {
 protected:
  PrefixCacheIdentityTest()
      : packed_(std::string(TRIREME_SOURCE_DIR "/tests/golden/") + GetParam().model,
                GetParam().format) {
    limits_.kv_dtype = GetParam().kv_dtype;
  }

  std::vector<int32_t> random_tokens(uint32_t n) {
    std::vector<int32_t> tokens;
    const auto vocab_size = static_cast<uint32_t>(packed_.file()->config().vocab_size);
    for (uint32_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(random_() % vocab_size));
    return tokens;
  }

  GenerateRequest request_on(std::vector<int32_t> prompt_ids) {
    GenerateRequest request;
    request.prompt_ids = std::move(prompt_ids);
    request.sampling = {.temperature = random_() % 2 == 0 ? 0.0F : 0.9F, .seed = random_()};
    request.max_new_tokens = static_cast<int32_t>(1 + random_() % 20);
    request.ignore_eos = true;
    request.want_last_logits = random_() % 2 == 0;
    request.want_prompt_logprobs = random_() % 8 == 0;
    request.cache_salt = random_() % 8 == 0 ? "salt" : "";
    return request;
  }

  // Prompts that begin alike, choices of one prompt, and turns of a chat.
  std::vector<GenerateRequest> random_requests() {
    std::vector<std::vector<int32_t>> stems = {random_tokens(16), random_tokens(50)};
    std::vector<GenerateRequest> requests;
    for (int i = 0; i < 8; ++i) {
      std::vector<int32_t> prompt = stems[random_() % stems.size()];
      prompt.resize(1 + random_() % prompt.size());
      const std::vector<int32_t> rest = random_tokens(random_() % 60);
      prompt.insert(prompt.end(), rest.begin(), rest.end());
      GenerateRequest request = request_on(prompt);
      const uint32_t n_choices = random_() % 3 == 0 ? 3 : 1;
      for (request.choice = 0; request.choice < n_choices; ++request.choice)
        requests.push_back(request);
      stems.push_back(prompt);
      if (i % 2 == 0) {
        GenerateRequest turn = request_on(prompt);
        turn.prompt_ids = next_turn(request);
        requests.push_back(turn);
      }
    }
    return requests;
  }

  std::vector<int32_t> next_turn(GenerateRequest request) {
    request.choice = 0;
    ScheduledRun alone{.file = packed_.file(), .layout = {1, 1}, .limits = limits_};
    const Answers answers = alone.answer({request});
    std::vector<int32_t> prompt = request.prompt_ids;
    const std::vector<int32_t>& answer = answers.at(1).tokens;
    prompt.insert(prompt.end(), answer.begin(), answer.end());
    const std::vector<int32_t> rest = random_tokens(1 + random_() % 20);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    return prompt;
  }

  TemporaryPackedModel packed_;
  ThreadGroup::Limits limits_;
  std::mt19937 random_{23};
};

TEST_P(PrefixCacheIdentityTest, HitOrMissGivesTheSameBits) {
  const auto& file = packed_.file();
  const int32_t max_tp = model_cuts(file->config()).max_tp();
  for (int round = 0; round < 3; ++round) {
    const std::vector<GenerateRequest> requests = random_requests();
    ScheduledRun off{.file = file, .layout = {1, 1}, .limits = limits_, .prefix_cache = false};
    const Answers expected = off.answer(requests);
    EXPECT_EQ(off.counts.n_hit, 0U);
    for (const Layout& layout : kSmallLayouts) {
      if (layout.tp > max_tp || layout.pp > file->config().n_layers) continue;
      const std::string where = "round " + std::to_string(round) + ", " + name_of(layout);
      ScheduledRun on{.file = file, .layout = layout, .limits = limits_, .n_results_between = 3};
      expect_same(expected, on.answer(requests), where);
      EXPECT_GT(on.counts.n_hit, 200U) << where;

      ScheduledRun tight = on;
      tight.limits.kv_blocks = 20;
      tight.n_results_between = round;
      tight.perturbation = {.seed = random_(),
                            .random_chunks = true,
                            .shuffle_batch = true,
                            .preempt_probability = 0.05,
                            .colliding_prefixes = round == 2};
      expect_same(expected, tight.answer(requests), where + " perturbed");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, PrefixCacheIdentityTest,
                         testing::Values(Case{"llama", WeightFormat::kBF16, DType::kBF16},
                                         Case{"mistral-window", WeightFormat::kI8, DType::kI8},
                                         Case{"qwen3", WeightFormat::kI8, DType::kBF16}),
                         [](const testing::TestParamInfo<Case>& param) {
                           std::string name = param.param.model;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name + "_" + weight_format_name(param.param.format) + "_kv_" +
                                  dtype_name(param.param.kv_dtype);
                         });

}  // namespace
}  // namespace trireme::test
