#include "coordinator/serving/request_times.h"

namespace trireme {
namespace {

double seconds(RequestTimes::TimePoint from, RequestTimes::TimePoint to) {
  return std::chrono::duration<double>(to - from).count();
}

void tell(const std::function<void(double)>& listener, double value) {
  if (listener) listener(value);
}

int64_t to_us(RequestTimes::TimePoint moment) {
  return std::chrono::duration_cast<std::chrono::microseconds>(moment.time_since_epoch()).count();
}

RequestTimes::TimePoint from_us(int64_t us) {
  return RequestTimes::TimePoint(std::chrono::microseconds(us));
}

}  // namespace

RequestTimes::RequestTimes(const RequestMoments& moments)
    : submitted_(from_us(moments.submitted_us)),
      n_prompt_tokens_(moments.n_prompt_tokens),
      n_output_tokens_(moments.n_output_tokens),
      last_token_(from_us(moments.last_token_us)) {
  if (moments.planned_us >= 0) planned_ = from_us(moments.planned_us);
  if (moments.first_token_us >= 0) first_token_ = from_us(moments.first_token_us);
}

RequestMoments RequestTimes::moments() const {
  return {.submitted_us = to_us(submitted_),
          .planned_us = planned_ ? to_us(*planned_) : -1,
          .first_token_us = first_token_ ? to_us(*first_token_) : -1,
          .last_token_us = to_us(last_token_),
          .n_prompt_tokens = n_prompt_tokens_,
          .n_output_tokens = n_output_tokens_};
}

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
