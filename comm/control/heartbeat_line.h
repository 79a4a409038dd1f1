#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "comm/control/heartbeat_datagram.h"
#include "comm/control/unique_fd.h"

namespace trireme {

// A rank's end of the datagrams that go beside its connection to the coordinator. TCP waits for
// longer than a network was gone before it sends again what was lost, and all that follows waits
// behind it; a datagram waits for nothing. Where datagrams do not get through, nothing comes of
// them.
class HeartbeatLine {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // To where the connection goes.
  HeartbeatLine(int connection_fd, const SecretKey& key, int32_t world_rank);

  // Takes the answers that have come, then sends the next heartbeat. `last_bytes`: when the
  // connection last brought any. Never waits.
  void beat(const RankState& state, Time last_bytes);

  // When an answer last came; long ago if none ever did. For any thread.
  Time last_answer() const { return last_answer_.load(std::memory_order_relaxed); }

 private:
  void take_answers();

  UniqueFd fd_;
  const SecretKey key_;
  const int32_t world_rank_;
  uint64_t number_ = 0;    // of the last heartbeat
  uint64_t answered_ = 0;  // number of the last that was answered
  std::atomic<Time> last_answer_{Time()};
};

}  // namespace trireme
