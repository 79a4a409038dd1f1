#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "coordinator/serving/serving_observer.h"

namespace trireme {

// The same as plain numbers: microseconds of the steady clock, -1 for what has not come.
struct RequestMoments {
  int64_t submitted_us = 0;
  int64_t planned_us = -1;
  int64_t first_token_us = -1;
  int64_t last_token_us = 0;
  int32_t n_prompt_tokens = 0;
  int32_t n_output_tokens = 0;
};

// The moments of one request, told to the observer as they come.
class RequestTimes {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  RequestTimes(TimePoint submitted, int32_t n_prompt_tokens)
      : submitted_(submitted), n_prompt_tokens_(n_prompt_tokens) {}
  explicit RequestTimes(const RequestMoments& moments);
  RequestMoments moments() const;

  // A plan holds tokens of the request. Only the first one counts.
  void planned(TimePoint now, const ServingObserver& observer);
  void got_token(TimePoint now, const ServingObserver& observer);
  void finished(TimePoint now, FinishReason reason, const ServingObserver& observer) const;

 private:
  TimePoint submitted_;
  int32_t n_prompt_tokens_;
  int32_t n_output_tokens_ = 0;
  std::optional<TimePoint> planned_;
  std::optional<TimePoint> first_token_;
  TimePoint last_token_;
};

}  // namespace trireme
