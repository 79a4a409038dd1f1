#pragma once

#include <cstdint>
#include <vector>

#include "comm/control/step_plan.h"

namespace trireme {

// The search for the `width` most likely continuations of a prompt, as vLLM does it: in each step
// every beam is continued with each of its 2 * width most likely tokens, and the best `width` of
// all go on; those that end with an end token are set aside. What is set aside and what is left
// after the last step is ranked by log p / length ^ length_penalty, of prompt and continuation
// without the end token. Ties go to the better beam before, then to the likelier token. A state
// machine: likelihoods in, beams out. Holds at most 2 * width beams.
class BeamSearch {
 public:
  struct Options {
    int32_t width = 1;
    int32_t n_prompt = 1;  // tokens
    int32_t max_new_tokens = 1;
    float length_penalty = 1.0F;
    std::vector<int32_t> end_token_ids;
    int32_t n_told = 0;  // of each token's most likely ones, in top_logprobs
  };
  struct Beam {
    std::vector<int32_t> token_ids;
    std::vector<float> logprobs;                          // as long as token_ids
    std::vector<std::vector<TokenLogprob>> top_logprobs;  // the same
    double sum = 0;                                       // of logprobs
    bool ended = false;                                   // its last token is an end token
  };

  explicit BeamSearch(Options options);

  int32_t n_candidates() const { return 2 * options_.width; }
  bool done() const { return live_.empty() || n_steps_ == options_.max_new_tokens; }
  // Those that go on, best first.
  const std::vector<Beam>& live() const { return live_; }
  // `next` [live().size()]: the n_candidates() most likely next tokens of each, most likely first.
  void advance(const std::vector<std::vector<TokenLogprob>>& next);
  // Once done, best first; at most `width`.
  std::vector<Beam> best() const;

 private:
  struct Candidate;
  Beam extended(const Candidate& by, const std::vector<TokenLogprob>& top) const;
  double score(const Beam& beam) const;
  void keep_best(std::vector<Beam>* beams) const;

  Options options_;
  int32_t n_steps_ = 0;
  std::vector<Beam> live_;
  std::vector<Beam> ended_;  // the best `width` of them, best first
};

}  // namespace trireme
