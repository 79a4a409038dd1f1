#pragma once

#include <algorithm>
#include <chrono>
#include <memory>

#include "comm/region_mapping.h"

namespace trireme::detail {

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Cores this process may run on.
int available_cores();

// How one rank waits inside one communicator: a short spin, then sleep on its doorbell, until the
// condition holds, the region is aborted or the deadline has passed.
class RegionWaiter {
 public:
  static constexpr int kNobody = -1;
  static constexpr std::chrono::microseconds kShortestSpin{1};

  // kind: "tp" or "pp", for messages. self must outlive the waiter.
  RegionWaiter(RegionMapping& mapping, MemberControl& self, const char* kind,
               std::chrono::milliseconds deadline, std::chrono::microseconds longest_spin)
      : mapping_(mapping),
        self_(self),
        kind_(kind),
        deadline_(deadline),
        longest_spin_(longest_spin),
        spin_(longest_spin) {}

  // Returns once missing_peer() is kNobody; until then it names a rank that is waited for. It must
  // read the shared counters with seq_cst. Throws CommError naming op, peer and time.
  template <typename MissingPeer>
  void wait(const char* op, MissingPeer missing_peer) {
    throw_if_aborted(op);
    if (missing_peer() == kNobody) return;
    const Clock::time_point start = Clock::now();
    do {
      for (int i = 0; i < 16; ++i) {
        cpu_relax();
        if (missing_peer() == kNobody) return spun_enough();
      }
    } while (Clock::now() - start < spin_);
    spun_in_vain();
    while (!sleep_once(start, missing_peer)) {
      check_still_worth_waiting(op, missing_peer(), start);
    }
  }

  void throw_if_aborted(const char* op) const;

 private:
  using Clock = std::chrono::steady_clock;

  // Spinning pays only while the peers really run at the same time. Where others compete for the
  // cores it soon stops, and it comes back when it helps again.
  void spun_enough() { spin_ = std::min(2 * spin_, longest_spin_); }
  void spun_in_vain() { spin_ = std::max(spin_ / 2, kShortestSpin); }

  // True when the condition holds. The order (read the bell, say so, look again, sleep) and that of
  // ring_doorbell leave no gap in which a change could be missed.
  template <typename MissingPeer>
  bool sleep_once(Clock::time_point start, MissingPeer missing_peer) {
    const uint32_t bell = self_.doorbell.load(std::memory_order_seq_cst);
    self_.sleeping.store(1, std::memory_order_seq_cst);
    bool ready = missing_peer() == kNobody;
    if (!ready && !mapping_.aborted()) {
      sleep_on_doorbell(bell, start);
      ready = missing_peer() == kNobody;
    }
    self_.sleeping.store(0, std::memory_order_seq_cst);
    return ready;
  }

  void sleep_on_doorbell(uint32_t bell, Clock::time_point start);
  void check_still_worth_waiting(const char* op, int peer, Clock::time_point start);

  RegionMapping& mapping_;
  MemberControl& self_;
  const char* kind_;
  std::chrono::milliseconds deadline_;
  std::chrono::microseconds longest_spin_;
  std::chrono::microseconds spin_;  // of the next wait
};

}  // namespace trireme::detail
