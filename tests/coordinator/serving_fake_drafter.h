#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "coordinator/serving/drafter.h"
#include "coordinator/serving/sequence.h"
#include "tests/coordinator/serving_fake_ranks.h"

namespace trireme::fake {

// Knows what the fake model will say, and errs with each token as often as it was told. Says
// nothing now and then.
class OracleDrafter final : public Drafter {
 public:
  OracleDrafter(uint64_t seed, double errs) : state_(seed), errs_(errs) {}

  std::vector<int32_t> guess(const TokenLog& log, int32_t n) override {
    const auto& weights = log.request.weights;
    const std::vector<int32_t> answer =
        undisturbed(log.request, weights ? weights->generation : 0).token_ids;
    std::vector<int32_t> guesses;
    if (chance(0.1)) return guesses;
    for (int32_t i = log.n_output(); i < log.n_output() + n; ++i) {
      const bool knows = i < static_cast<int32_t>(answer.size()) && !chance(errs_);
      guesses.push_back(knows ? answer[static_cast<size_t>(i)]
                              : static_cast<int32_t>(next() % kVocabSize));
    }
    return guesses;
  }

 private:
  uint64_t next() { return state_ = mix(state_, 1); }
  bool chance(double p) { return static_cast<double>(next() % 1024) < 1024.0 * p; }

  uint64_t state_;
  double errs_;
};

inline DrafterMaker oracle_maker(uint64_t seed, double errs) {
  return [seed, errs] { return std::make_unique<OracleDrafter>(seed, errs); };
}

}  // namespace trireme::fake
