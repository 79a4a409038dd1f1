#pragma once

#include <chrono>

#include "comm/region_mapping.h"
#include "kernels/adaptive_spin.h"

namespace trireme::detail {

// How one rank waits inside one communicator: a short spin, then sleep on its doorbell, until the
// condition holds, the region is aborted or the deadline has passed.
class RegionWaiter {
 public:
  static constexpr int kNobody = -1;

  // kind: "tp" or "pp", for messages. self must outlive the waiter.
  RegionWaiter(RegionMapping& mapping, MemberControl& self, const char* kind,
               std::chrono::milliseconds deadline)
      : mapping_(mapping), self_(self), kind_(kind), deadline_(deadline) {}

  // Returns once missing_peer() is kNobody; until then it names a rank that is waited for. It must
  // read the shared counters with seq_cst. Throws CommError naming op, peer and time.
  template <typename MissingPeer>
  void wait(const char* op, MissingPeer missing_peer) {
    throw_if_aborted(op);
    if (spin_.poll([&] { return missing_peer() == kNobody; })) return;
    while (!sleep_once(spin_.start(), missing_peer)) {
      check_still_worth_waiting(op, missing_peer(), spin_.start());
    }
    spin_.slept();
  }

  void throw_if_aborted(const char* op) const;

 private:
  using Clock = AdaptiveSpin::Clock;

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
  AdaptiveSpin spin_;
};

}  // namespace trireme::detail
