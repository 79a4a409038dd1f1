#include "coordinator/cli/bench_measure.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/int_math.h"

namespace trireme {

double prefill_rate(const BenchBatch& batch, int64_t n_prompt_tokens) {
  TRIREME_CHECK(!batch.streams.empty());
  double begin = batch.streams.front().submitted_s;
  double end = 0.0;
  for (const BenchStream& stream : batch.streams) {
    begin = std::min(begin, stream.submitted_s);
    end = std::max(end, stream.first_token_s);
  }
  return static_cast<double>(n_prompt_tokens) / (end - begin);
}

double first_token_seconds(const BenchBatch& batch) {
  std::vector<double> seconds;
  for (const BenchStream& stream : batch.streams) {
    seconds.push_back(stream.first_token_s - stream.submitted_s);
  }
  return spread_of(std::move(seconds)).median;
}

double decode_rate(const BenchBatch& batch) {
  TRIREME_CHECK(!batch.streams.empty() && !batch.streams.front().token_steps.empty());
  int32_t begin = 0;
  int32_t end = batch.streams.front().token_steps.back();
  for (const BenchStream& stream : batch.streams) {
    begin = std::max(begin, stream.token_steps.front());
    end = std::min(end, stream.token_steps.back());
  }
  if (end <= begin) return 0.0;
  int64_t n_tokens = 0;
  for (const BenchStream& stream : batch.streams) {
    n_tokens += std::count_if(stream.token_steps.begin(), stream.token_steps.end(),
                              [&](int32_t step) { return begin < step && step <= end; });
  }
  const auto time_of = [&](int32_t step) {
    return batch.step_times_s.at(static_cast<size_t>(step));
  };
  return static_cast<double>(n_tokens) / (time_of(end) - time_of(begin));
}

Spread spread_of(std::vector<double> values) {
  TRIREME_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

int32_t prefill_steps(int64_t n_streams, int64_t n_prompt_tokens, int64_t max_batch_tokens) {
  if (n_streams == 1) return 0;
  // Streams that decode already take a token each of every step.
  const int64_t n_for_prompts = std::max<int64_t>(1, max_batch_tokens - n_streams + 1);
  return static_cast<int32_t>(div_ceil<int64_t>(n_streams * n_prompt_tokens, n_for_prompts)) + 1;
}

}  // namespace trireme
