#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "coordinator/serving/serving_observer.h"

namespace trireme {

// The moments of one request, told to the observer as they come.
class RequestTimes {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  RequestTimes(TimePoint submitted, int32_t n_prompt_tokens)
      : submitted_(submitted), n_prompt_tokens_(n_prompt_tokens) {}

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
