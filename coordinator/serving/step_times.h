#pragma once

#include <chrono>
#include <cstdint>
#include <deque>

#include "comm/control/step_plan.h"
#include "coordinator/serving/serving_observer.h"

namespace trireme {

// When the plans of one group were sent and answered, and what follows for each of them alone.
class StepTimes {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  struct Step {
    int32_t n_prompt_tokens = 0;
    int32_t n_decodes = 0;  // sequences of one token, and of guesses behind it
    double ms = 0.0;        // by which later answers are later because of it

    StepPhase phase() const {
      if (n_prompt_tokens == 0) return StepPhase::kDecode;
      return n_decodes == 0 ? StepPhase::kPrefill : StepPhase::kMixed;
    }
  };

  void sent(TimePoint now, const StepPlan& plan);
  // The plan in flight with this id. Answers come in the order of plans, one stage after the other:
  // of a plan behind another one, the time since that one's answer counts; of one that found a
  // pipeline of n_stages empty, its time over the stages.
  Step answered(TimePoint now, uint64_t step_id, int32_t n_stages);
  // The plans in flight are void.
  void lost(TimePoint now);

  // All time so far with a plan in flight.
  std::chrono::microseconds working(TimePoint now) const;

 private:
  struct Sent {
    uint64_t step_id = 0;
    int32_t n_prompt_tokens = 0;
    int32_t n_decodes = 0;
    TimePoint at;
    bool alone = false;  // no other was in flight
  };

  std::deque<Sent> in_flight_;
  TimePoint last_answer_;
  TimePoint working_since_;  // while one is in flight
  std::chrono::steady_clock::duration worked_{};
};

}  // namespace trireme
