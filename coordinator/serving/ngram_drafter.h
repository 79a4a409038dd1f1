#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "coordinator/serving/drafter.h"

namespace trireme {

// Guesses that what followed the last few tokens the last time they came, in the prompt or the
// answer, follows again (prompt lookup). Looks for the last three tokens, else for the last two.
// Memory grows with the log: some 100 bytes a token.
class NgramDrafter final : public Drafter {
 public:
  std::vector<int32_t> guess(const TokenLog& log, int32_t n) override;

 private:
  static constexpr int32_t kLongest = 3;
  static constexpr int32_t kShortest = 2;

  void note(const TokenLog& log, int32_t end);
  int32_t find(const TokenLog& log) const;

  // Hash of so many tokens -> the position behind them, where they came last. Two n-grams with one
  // hash cost a wrong guess.
  std::unordered_map<uint64_t, int32_t> behind_;
  int32_t n_noted_ = 0;  // positions behind n-grams that were noted
};

}  // namespace trireme
