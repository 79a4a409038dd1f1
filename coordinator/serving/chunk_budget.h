#pragma once

#include <cstdint>

namespace trireme {

// How many prompt tokens a step may take while there are streams, so that they keep a target time
// from token to token: learnt from how long steps took. A state machine without clock.
//
// A step costs a base, and so much for each prompt token; what times scatter by is kept free, so
// that most steps keep the target, not half of them. The base comes from steps without prompts, the
// cost of a token from the others, as what they took beyond the base: so a base that is wrong, or
// of another time, is made up for by the cost, and the step still comes out at the target.
class ChunkBudget {
 public:
  // Prompts go on by this much a step however long that takes: a block.
  static constexpr int32_t kSmallestChunk = 16;

  // step_ms: the target. max_tokens: the most that a step may take.
  ChunkBudget(double step_ms, int32_t max_tokens);

  // A step was answered; n_prompt_tokens 0: it only decoded.
  void observe(int32_t n_prompt_tokens, double ms);

  // Of the next step. Before a prompt was seen, the smallest chunk; from then on at most twice what
  // a step has shown to be good for.
  int32_t n_tokens() const { return n_tokens_; }

 private:
  int32_t wanted() const;

  const double step_ms_;
  const int32_t max_tokens_;
  int32_t n_tokens_ = 0;
  double base_ms_ = 0.0;  // 0: no step without prompts was seen
  // Of the last steps with prompts, weighted: their quotient is the cost of a token.
  double prompt_ms_ = 0.0;
  double prompt_tokens_ = 0.0;
  double spread_ = 0.0;  // of steps' times around the expected ones, as a part of these
};

}  // namespace trireme
