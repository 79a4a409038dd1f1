#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

namespace trireme::fake {

// Virtual time in milliseconds, and what is to happen when. Things at one time happen in the order
// in which they were asked for.
class SimulatedClock {
 public:
  int64_t now() const { return now_; }

  void after(int64_t delay_ms, std::function<void()> what) {
    events_.emplace(std::pair(now_ + delay_ms, ++last_), std::move(what));
  }

  // Goes on to the next event and lets it happen. False: there is none.
  bool step() {
    if (events_.empty()) return false;
    auto next = events_.extract(events_.begin());
    now_ = next.key().first;
    next.mapped()();
    return true;
  }

 private:
  int64_t now_ = 0;
  uint64_t last_ = 0;
  std::map<std::pair<int64_t, uint64_t>, std::function<void()>> events_;
};

}  // namespace trireme::fake
