#include "coordinator/serving/pipeline_bubble.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace trireme {
namespace {

// Of work. A rank tells of a step when it has ended: over many steps that evens out.
constexpr double kHalfLifeUs = 5e6;

}  // namespace

void PipelineBubble::observe(int replica, const Totals& totals) {
  const auto [place, is_new] = last_.try_emplace(replica, totals);
  if (is_new) return;
  const Totals last = std::exchange(place->second, totals);
  const bool goes_on = last.epoch == totals.epoch && last.computed_us <= totals.computed_us &&
                       last.working_us <= totals.working_us;
  if (!goes_on) return;
  const auto worked_us = static_cast<double>(totals.working_us - last.working_us);
  const double keep = std::exp2(-worked_us / kHalfLifeUs);
  computed_us_ = keep * computed_us_ + static_cast<double>(totals.computed_us - last.computed_us);
  possible_us_ = keep * possible_us_ + worked_us * totals.n_stages;
}

double PipelineBubble::ratio() const {
  if (possible_us_ <= 0) return 0.0;
  return std::clamp(1 - computed_us_ / possible_us_, 0.0, 1.0);
}

}  // namespace trireme
