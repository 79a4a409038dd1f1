#include "coordinator/serving/step_times.h"

#include <algorithm>

#include "kernels/check.h"

namespace trireme {
void StepTimes::sent(TimePoint now, const StepPlan& plan) {
  const bool alone = in_flight_.empty();
  if (alone) working_since_ = now;
  Sent& sent = in_flight_.emplace_back();
  sent.step_id = plan.step_id;
  sent.at = now;
  sent.alone = alone;
  for (const SequencePlan& part : plan.sequences) {
    const int32_t n_known = static_cast<int32_t>(part.input_ids.size()) - part.n_guesses;
    // One token, and guesses behind it, is a decode, or costs about the same.
    (n_known > 1 ? sent.n_prompt_tokens : sent.n_decodes) += n_known;
  }
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
  return {.n_prompt_tokens = sent.n_prompt_tokens,
          .n_decodes = sent.n_decodes,
          .ms = sent.alone ? ms / n_stages : ms};
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
