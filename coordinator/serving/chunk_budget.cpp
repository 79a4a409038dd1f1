#include "coordinator/serving/chunk_budget.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace trireme {
namespace {

constexpr double kWeight = 0.2;      // of the last step among all before it
constexpr double kMostSurprise = 4;  // times the expected: a hiccup says little about what follows
constexpr double kLeastTokenMs = 1e-6;

void learn(double& value, double seen) { value += kWeight * (seen - value); }

}  // namespace

ChunkBudget::ChunkBudget(double step_ms, int32_t max_tokens)
    : step_ms_(step_ms), max_tokens_(max_tokens), n_tokens_(std::min(kSmallestChunk, max_tokens)) {
  TRIREME_CHECK(step_ms_ > 0 && max_tokens_ > 0);
}

void ChunkBudget::observe(int32_t n_prompt_tokens, double ms) {
  TRIREME_CHECK(n_prompt_tokens >= 0 && ms >= 0);
  const bool known = prompt_tokens_ > 0;
  double expected_ms = base_ms_;
  if (known) expected_ms += n_prompt_tokens * prompt_ms_ / prompt_tokens_;
  if (expected_ms > 0 && (known || n_prompt_tokens == 0)) {
    ms = std::min(ms, kMostSurprise * expected_ms);
    learn(spread_, std::abs(ms - expected_ms) / expected_ms);
  }
  // A step with a prompt is one without and more.
  if (base_ms_ == 0 && n_prompt_tokens == 0) {
    base_ms_ = ms;
  } else if (n_prompt_tokens == 0 || ms < base_ms_) {
    learn(base_ms_, ms);
  }
  int32_t shown = n_tokens_;
  if (n_prompt_tokens > 0) {
    prompt_ms_ *= 1 - kWeight;
    prompt_tokens_ *= 1 - kWeight;
    prompt_ms_ += kWeight * (ms - base_ms_);
    prompt_tokens_ += kWeight * n_prompt_tokens;
    shown = 2 * std::max(n_tokens_, n_prompt_tokens);
  }
  const int32_t floor = std::min(kSmallestChunk, max_tokens_);
  n_tokens_ = std::clamp(std::min(wanted(), shown), floor, max_tokens_);
}

int32_t ChunkBudget::wanted() const {
  if (prompt_tokens_ == 0) return 0;
  const double room_ms = step_ms_ / (1 + spread_) - base_ms_;
  const double token_ms = std::max(kLeastTokenMs, prompt_ms_ / prompt_tokens_);
  return static_cast<int32_t>(std::clamp(room_ms / token_ms, 0.0, double{max_tokens_}));
}

}  // namespace trireme
