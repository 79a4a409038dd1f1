// The promise everything else stands on: the same tokens and the same logits, bit for bit, on every
// layout, in every batch, however prompts are cut and sequences preempted.

#include <gtest/gtest.h>

#include <random>

#include "model/weight_format.h"
#include "tests/layouts/scheduled_run.h"

namespace trireme::test {
namespace {

// The same once more, with what depends on the tokens so far.
void add_requests_with_rules(int32_t vocab_size, std::vector<GenerateRequest>& requests) {
  const std::vector<GenerateRequest> plain = requests;
  for (const GenerateRequest& request : plain) {
    GenerateRequest& r = requests.emplace_back(request);
    r.sampling.min_p = r.sampling.temperature > 0 ? 0.01F : 0.0F;
    LogitRules rules;
    if (requests.size() % 2 == 0) {
      rules.repetition_penalty = 1.4F;
      rules.frequency_penalty = 0.5F;
      rules.presence_penalty = -0.25F;
    }
    for (int32_t id = 0; id < vocab_size; id += 3) rules.bad_words.push_back({id + 1, id});
    rules.bad_words.push_back({7});
    rules.biases = {{.token_id = 3, .bias = 1.5F}, {.token_id = 9, .bias = -2.0F}};
    rules.min_tokens = 5;
    rules.end_token_ids = {1, 2};
    if (requests.size() % 3 == 0) {
      for (int32_t id = 0; id < vocab_size; id += 2) rules.allowed_token_ids.push_back(id);
    }
    r.rules = std::make_shared<LogitRules>(std::move(rules));
  }
}

std::vector<GenerateRequest> make_requests(int32_t vocab_size) {
  std::mt19937 random(11);
  std::vector<GenerateRequest> requests;
  for (const int32_t n_prompt : {1, 5, 37, 90, 130, 16, 64}) {
    GenerateRequest r;
    for (int32_t i = 0; i < n_prompt; ++i) {
      r.prompt_ids.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
    }
    const bool greedy = requests.size() % 2 == 0;
    r.sampling = {.temperature = greedy ? 0.0F : 0.9F,
                  .top_p = requests.size() % 3 == 0 ? 1.0F : 0.95F,
                  .top_k = requests.size() == 5 ? 20 : 0,
                  .seed = 1000 + requests.size()};
    r.max_new_tokens = 12;
    r.ignore_eos = true;
    r.want_prompt_logprobs = true;
    r.want_last_logits = true;
    if (requests.size() % 2 == 1) r.n_prompt_logprobs = 3;
    if (requests.size() % 4 > 1) r.grammar = {.tag = "test", .text = "any"};
    requests.push_back(r);
  }
  add_requests_with_rules(vocab_size, requests);
  return requests;
}

Answers run(const std::shared_ptr<const PackedModel>& file, Layout layout,
            const ThreadGroup::Limits& limits, TestPerturbation perturbation) {
  ScheduledRun all{.file = file, .layout = layout, .limits = limits, .perturbation = perturbation};
  return all.answer(make_requests(file->config().vocab_size));
}

struct Case {
  const char* model;
  WeightFormat format;
  std::optional<DType> kv_dtype = std::nullopt;
};

class LayoutIdentityTest : public testing::TestWithParam<Case> {
 protected:
  LayoutIdentityTest()
      : packed_(std::string(TRIREME_SOURCE_DIR "/tests/golden/") + GetParam().model,
                GetParam().format) {}
  TemporaryPackedModel packed_;
};

TEST_P(LayoutIdentityTest, EveryLayoutChunkingBatchAndPreemption) {
  const auto& file = packed_.file();
  const ThreadGroup::Limits roomy{.kv_dtype = GetParam().kv_dtype};
  const auto reference = run(file, {1, 1}, roomy, {});
  for (const auto& [id, answer] : reference) {
    ASSERT_EQ(answer.finish, FinishReason::kLength);
    ASSERT_EQ(answer.tokens.size(), 12U);
    ASSERT_EQ(answer.last_logits.size(), static_cast<size_t>(file->config().vocab_size));
  }
  int n_masked = 0;
  const auto requests = make_requests(file->config().vocab_size);
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::vector<int32_t>& tokens = reference.at(i + 1).tokens;
    for (size_t k = 0; k < tokens.size() && !requests[i].grammar.empty(); ++k, ++n_masked) {
      EXPECT_TRUE(is_allowed({tokens.begin(), tokens.begin() + static_cast<long>(k)}, tokens[k]));
    }
  }
  EXPECT_GT(n_masked, 30);
  ThreadGroup::Limits unfused = roomy;
  unfused.fuse = false;
  expect_same(reference, run(file, {1, 1}, unfused, {}), "unfused");
  const int32_t max_tp = model_cuts(file->config()).max_tp();
  uint64_t seed = 1;
  for (const int tp : {1, 2, 3, 4}) {
    for (const int pp : {1, 2, 3}) {
      if (tp > max_tp || pp > file->config().n_layers) continue;
      ThreadGroup::Limits tight = roomy;
      tight.kv_blocks = 20;  // one long request and little else: real preemption
      tight.n_threads = 1 + (tp + pp) % 2;
      const std::string where = name_of({tp, pp});
      expect_same(reference, run(file, {tp, pp}, roomy, {}), where);
      expect_same(reference,
                  run(file, {tp, pp}, tight,
                      {.seed = ++seed,
                       .random_chunks = true,
                       .shuffle_batch = true,
                       .preempt_probability = 0.05}),
                  where + " perturbed");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, LayoutIdentityTest,
    testing::Values(Case{"llama", WeightFormat::kBF16}, Case{"llama", WeightFormat::kF32},
                    Case{"mistral-window", WeightFormat::kBF16}, Case{"qwen2", WeightFormat::kBF16},
                    Case{"qwen3", WeightFormat::kF32}, Case{"qwen2", WeightFormat::kF16},
                    Case{"llama", WeightFormat::kI8}, Case{"qwen3", WeightFormat::kI4},
                    Case{"mistral-window", WeightFormat::kI8, DType::kI8},
                    Case{"llama-biases", WeightFormat::kBF16, DType::kI8},
                    Case{"mistral-window", WeightFormat::kF32, DType::kI8}),
    [](const testing::TestParamInfo<Case>& param) {
      std::string name = param.param.model;
      for (char& c : name) c = c == '-' ? '_' : c;
      name += std::string("_") + weight_format_name(param.param.format);
      return param.param.kv_dtype ? name + "_kv_" + dtype_name(*param.param.kv_dtype) : name;
    });

}  // namespace
}  // namespace trireme::test
