#include "coordinator/serving/step_times.h"

#include <algorithm>

#include "kernels/check.h"

namespace trireme {
namespace {

// One token a sequence, and guesses behind it, is a decode, or costs about the same.
int32_t n_prompt_tokens(const StepPlan& plan) {
  int32_t n = 0;
  for (const SequencePlan& part : plan.sequences) {
    const int32_t n_known = static_cast<int32_t>(part.input_ids.size()) - part.n_guesses;
    n += n_known > 1 ? n_known : 0;
  }
  return n;
}

}  // namespace

void StepTimes::sent(TimePoint now, const StepPlan& plan) {
  const bool alone = in_flight_.empty();
  if (alone) working_since_ = now;
  in_flight_.push_back({.step_id = plan.step_id,
                        .n_prompt_tokens = n_prompt_tokens(plan),
                        .at = now,
                        .alone = alone});
}

StepTimes::Step StepTimes::answered(TimePoint now, uint64_t step_id, int32_t n_stages) {
  const auto found = std::find_if(in_flight_.begin(), in_flight_.end(),
                                  [&](const Sent& sent) { return sent.step_id == step_id; });
  TRIREME_CHECK_MSG(found != in_flight_.end(), "an answer to a plan that was not sent");
  const Sent sent = *found;
  in_flight_.erase(found);
  const TimePoint begin = sent.alone ? sent.at : std::max(sent.at, last_answer_);
  last_answer_ = now;
  if (in_flight_.empty()) worked_ += now - working_since_;
  const double ms = std::chrono::duration<double, std::milli>(now - begin).count();
  return {.n_prompt_tokens = sent.n_prompt_tokens, .ms = sent.alone ? ms / n_stages : ms};
}

void StepTimes::lost(TimePoint now) {
  if (!in_flight_.empty()) worked_ += now - working_since_;
  in_flight_.clear();
}

std::chrono::microseconds StepTimes::working(TimePoint now) const {
  const auto all = worked_ + (in_flight_.empty() ? now - now : now - working_since_);
  return std::chrono::duration_cast<std::chrono::microseconds>(all);
}

}  // namespace trireme
