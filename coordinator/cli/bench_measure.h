#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trireme {

// The tokens of one request, by the step that gave them. Times in seconds of one clock.
struct BenchStream {
  double submitted_s = 0.0;
  double first_token_s = 0.0;
  std::vector<int32_t> token_steps;  // ascending; one for each token
};

// Requests that were submitted together and have ended.
struct BenchBatch {
  std::vector<BenchStream> streams;  // at least one, each with at least one token
  std::vector<double> step_times_s;  // when each step was answered
};

// Prompt tokens per second of all streams, from the first submission to the last first token.
double prefill_rate(const BenchBatch& batch, int64_t n_prompt_tokens);

// Submission to first token: the median over the streams.
double first_token_seconds(const BenchBatch& batch);

// Tokens per second of all streams together, from the step after which every stream decodes to the
// one in which the first of them ends. 0 where no step lies between the two.
double decode_rate(const BenchBatch& batch);

// What repeated runs gave.
struct Spread {
  double median = 0.0;
  double min = 0.0;
  double max = 0.0;
};
Spread spread_of(std::vector<double> values);  // at least one

// Steps that may pass between the first tokens of the first and of the last of `n_streams` prompts
// submitted together: so much longer must the first one go on.
int32_t prefill_steps(int64_t n_streams, int64_t n_prompt_tokens, int64_t max_batch_tokens);

}  // namespace trireme
