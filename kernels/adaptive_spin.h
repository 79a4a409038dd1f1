#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>

namespace trireme {

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long one thread polls before it sleeps. Polling pays only while the thread that is waited for
// really runs at the same time, so it yields the core between looks, and a yield after which the
// core was away tells that others want it: then waits sleep almost at once, until short ones show
// that polling would help again.
class AdaptiveSpin {
 public:
  using Clock = std::chrono::steady_clock;

  // Polls until done() or the time is up; returns which. `done` must read with acquire or stronger.
  template <typename Done>
  bool poll(Done done) {
    for (int i = 0; i < kFirstLooks; ++i) {
      if (done()) return true;
      cpu_relax();
    }
    start_ = Clock::now();
    for (Clock::time_point now = start_; now - start_ < limit_;) {
      for (int i = 0; i < kLooksPerYield; ++i) {
        if (done()) return true;
        cpu_relax();
      }
      sched_yield();
      const Clock::time_point back = Clock::now();
      if (back - now > kCoreWasAway) {
        limit_ = kNothing;
        break;
      }
      now = back;
    }
    return done();
  }

  // To be called when the sleep after poll() that was in vain has ended.
  void slept() {
    if (Clock::now() - start_ < kLongest) limit_ = std::clamp(2 * limit_, kShortest, kLongest);
  }

  // When the last poll that was not over at once began.
  Clock::time_point start() const { return start_; }

 private:
  using Duration = Clock::duration;
  static constexpr int kFirstLooks = 64;  // about a microsecond, without a look at the clock
  static constexpr int kLooksPerYield = 32;
  static constexpr Duration kNothing{0};
  static constexpr Duration kShortest = std::chrono::microseconds(2);
  static constexpr Duration kLongest = std::chrono::microseconds(100);
  static constexpr Duration kCoreWasAway = std::chrono::microseconds(25);

  Duration limit_ = kLongest;  // of the next poll
  Clock::time_point start_;
};

}  // namespace trireme
