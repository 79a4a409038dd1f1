#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/control/step_plan.h"
#include "kernels/kernel_table.h"

namespace trireme {

// Draws tokens from logits. Depends on nothing but its arguments: the same logits, parameters and
// indices give the same token on every layout. Allocates at construction only.
class Sampler {
 public:
  Sampler(const KernelTable& kernels, int32_t vocab_size);

  // The lowest id among the largest logits [vocab_size]; what is not a number does not count.
  int32_t argmax(std::span<const float> logits) const;

  // temperature 0: argmax. Else softmax(logits / temperature), cut to the top_k most likely and
  // then to the fewest of those that hold top_p of their mass (ties by id), drawn with the noise of
  // (seed, choice, output_index).
  int32_t sample(std::span<const float> logits, const SamplingParams& params, uint32_t choice,
                 uint32_t output_index);

  // The same with nothing but the tokens of a mask (TokenMask::words, not empty): what is cut by
  // top_k and top_p is cut from them.
  int32_t sample_masked(std::span<const float> logits, std::span<const uint32_t> mask,
                        const SamplingParams& params, uint32_t choice, uint32_t output_index);

  // The n most likely tokens, most likely first, ties by id. Overwrites `out`.
  void top_tokens(std::span<const float> logits, float log_sum_exp, int32_t n,
                  std::vector<TokenLogprob>& out);

 private:
  // order_[0, result) = the logits >= least, largest first, ties by id.
  int32_t order_candidates(std::span<const float> logits, float least);
  // The same with a least one that gives n of them, if there are: `depth` below the largest, or
  // twice that, and so on.
  int32_t order_at_least(std::span<const float> logits, int32_t n, float largest, float depth);

  const KernelTable& kernels_;
  std::vector<float> weights_;  // [vocab_size]
  std::vector<float> masked_;   // [vocab_size]: logits, -inf where the mask has no token
  std::vector<int32_t> order_;  // [vocab_size]
};

}  // namespace trireme
