#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace trireme {

struct TokenLog;

// Guesses how one answer goes on. What it guesses changes no token, only how soon they come.
class Drafter {
 public:
  virtual ~Drafter() = default;

  // At most n tokens that may follow those of the log, which only grows from call to call.
  virtual std::vector<int32_t> guess(const TokenLog& log, int32_t n) = 0;
};

// One for each sequence; null: nothing is guessed.
using DrafterMaker = std::function<std::unique_ptr<Drafter>()>;

// Whether guesses are worth their while: those of a sequence that were wrong lately make the next
// ones fewer, right ones more.
class GuessPace {
 public:
  explicit GuessPace(int32_t most) : most_(most), n_(most) {}

  int32_t next() const { return n_; }
  void learn(int32_t n_guessed, int32_t n_right);

 private:
  int32_t most_;
  int32_t n_;
};

struct GuessCounts {
  uint64_t n_plans = 0;  // of a sequence, with guesses
  uint64_t n_guessed = 0;
  uint64_t n_right = 0;

  GuessCounts operator-(const GuessCounts& earlier) const {
    return {n_plans - earlier.n_plans, n_guessed - earlier.n_guessed, n_right - earlier.n_right};
  }
  bool operator==(const GuessCounts&) const = default;
};

}  // namespace trireme
