// Whether tokens were guessed makes no difference to one bit: right and wrong guesses, on every
// layout, with rules that depend on what was drawn, and log-probabilities.

#include <gtest/gtest.h>

#include <random>

#include "coordinator/serving/ngram_drafter.h"
#include "model/weight_format.h"
#include "tests/layouts/scheduled_run.h"

namespace trireme::test {
namespace {

constexpr int32_t kMostGuesses = 7;

// Knows the answers, and errs with every fifth token.
class KnowingDrafter final : public Drafter {
 public:
  KnowingDrafter(const std::vector<GenerateRequest>& requests, const Answers& answers,
                 int32_t vocab_size)
      : requests_(requests), answers_(answers), vocab_size_(vocab_size) {}

  std::vector<int32_t> guess(const TokenLog& log, int32_t n) override {
    std::vector<int32_t> guesses;
    for (size_t i = 0; i < requests_.size(); ++i) {
      const bool is_it = requests_[i].sampling.seed == log.request.sampling.seed;
      if (!is_it) continue;
      const std::vector<int32_t>& tokens = answers_.at(i + 1).tokens;
      const auto begin = static_cast<size_t>(log.n_output());
      for (size_t k = begin; k < begin + static_cast<size_t>(n) && k < tokens.size(); ++k)
        guesses.push_back(k % 5 == 4 ? (tokens[k] + 1) % vocab_size_ : tokens[k]);
    }
    return guesses;
  }

 private:
  const std::vector<GenerateRequest>& requests_;
  const Answers& answers_;
  int32_t vocab_size_;
};

class GuessesTest : public testing::TestWithParam<WeightFormat> {
 protected:
  GuessesTest() : packed_(TRIREME_SOURCE_DIR "/tests/golden/llama", GetParam()) {}

  std::vector<GenerateRequest> requests() {
    std::vector<GenerateRequest> all;
    const auto vocab_size = static_cast<uint32_t>(packed_.file()->config().vocab_size);
    for (uint64_t i = 0; i < 4; ++i) {
      GenerateRequest request;
      for (uint32_t k = 0; k < 3 + random_() % 40; ++k)
        request.prompt_ids.push_back(static_cast<int32_t>(random_() % vocab_size));
      request.sampling = {.temperature = i % 2 == 0 ? 0.0F : 0.8F, .top_k = 50, .seed = 100 + i};
      request.max_new_tokens = static_cast<int32_t>(30 + random_() % 30);
      request.ignore_eos = true;
      request.n_logprobs = i == 1 ? 3 : 0;
      if (i >= 2) {
        LogitRules rules;
        rules.repetition_penalty = 1.3F;
        rules.bad_words = {{1, 2}, {7}};
        request.rules = std::make_shared<LogitRules>(rules);
      }
      all.push_back(std::move(request));
    }
    return all;
  }

  TemporaryPackedModel packed_;
  ThreadGroup::Limits limits_;
  std::mt19937 random_{5};
};

TEST_P(GuessesTest, GuessedOrNotGivesTheSameBits) {
  const auto& file = packed_.file();
  const std::vector<GenerateRequest> asked = requests();
  ScheduledRun plain{.file = file, .layout = {1, 1}, .limits = limits_};
  const Answers expected = plain.answer(asked);
  for (const Layout& layout : kSmallLayouts) {
    const std::string where = name_of(layout);
    ScheduledRun run{.file = file, .layout = layout, .limits = limits_};
    run.max_guesses = kMostGuesses;
    run.make_drafter = [&] {
      return std::make_unique<KnowingDrafter>(asked, expected, file->config().vocab_size);
    };
    expect_same(expected, run.answer(asked), where);
    EXPECT_GT(run.guesses.n_right, 60U) << where;
    EXPECT_GT(run.guesses.n_guessed - run.guesses.n_right, 10U) << where;

    run.perturbation = {.seed = random_(),
                        .random_chunks = true,
                        .shuffle_batch = true,
                        .preempt_probability = 0.05};
    expect_same(expected, run.answer(asked), where + " perturbed");

    run.perturbation = {};
    run.make_drafter = [] { return std::make_unique<NgramDrafter>(); };
    expect_same(expected, run.answer(asked), where + " by n-grams");
    EXPECT_GT(run.guesses.n_guessed, 0U) << where;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, GuessesTest,
                         testing::Values(WeightFormat::kBF16, WeightFormat::kI8),
                         [](const testing::TestParamInfo<WeightFormat>& param) {
                           return std::string(weight_format_name(param.param));
                         });

}  // namespace
}  // namespace trireme::test
