#include "coordinator/serving/request_times.h"

namespace trireme {
namespace {

double seconds(RequestTimes::TimePoint from, RequestTimes::TimePoint to) {
  return std::chrono::duration<double>(to - from).count();
}

void tell(const std::function<void(double)>& listener, double value) {
  if (listener) listener(value);
}

}  // namespace

void RequestTimes::planned(TimePoint now, const ServingObserver& observer) {
  if (planned_) return;
  planned_ = now;
  tell(observer.on_queue_time, seconds(submitted_, now));
}

void RequestTimes::got_token(TimePoint now, const ServingObserver& observer) {
  ++n_output_tokens_;
  if (first_token_) {
    tell(observer.on_inter_token, seconds(last_token_, now));
  } else {
    first_token_ = now;
    tell(observer.on_first_token, seconds(submitted_, now));
    tell(observer.on_prefill_time, seconds(planned_.value_or(submitted_), now));
  }
  last_token_ = now;
}

void RequestTimes::finished(TimePoint now, FinishReason reason,
                            const ServingObserver& observer) const {
  if (first_token_) tell(observer.on_decode_time, seconds(*first_token_, last_token_));
  if (observer.on_finished)
    observer.on_finished(seconds(submitted_, now), n_prompt_tokens_, n_output_tokens_, reason);
}

}  // namespace trireme
