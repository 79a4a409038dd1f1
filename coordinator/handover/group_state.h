#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/cluster/group.h"

// What of a group of ranks goes from one coordinator to the next in the same process. Descriptors
// are numbers here: they stay open over the exec.

namespace trireme {

// One rank as its supervisor knows it.
struct SupervisedRank {
  RankInfo info;
  int32_t kv_blocks = 0;
  std::string numerics_id;
};

struct SupervisorState {
  std::vector<SupervisedRank> ranks;
  std::vector<int64_t> losses_ms;  // steady clock
  bool hung = false;
};

struct RankConnection {
  int fd = -1;
  int rank = 0;
  std::string unread;           // the beginning of a frame
  uint64_t last_heartbeat = 0;  // number of the last that came in a datagram
};

struct ProcessState {
  std::string name;
  int64_t pid = 0;
  int pidfd = -1;
};

struct EpochState {
  std::vector<ProcessState> processes;  // those that have not ended
  int output_fd = -1;                   // -1: all of them closed it
  std::string output_tail;
  uint64_t log_bytes = 0;
};

struct GroupState {
  uint64_t epoch = 0;    // 0: there never was one
  bool serving = false;  // false: it was given up, and the next coordinator starts it anew
  std::string job;       // encoded: what the ranks and a coordinator must agree on
  SupervisorState supervisor;
  int listener = -1;
  std::vector<RankConnection> connections;
  EpochState processes;
  std::vector<int> kv_memory;  // by rank; -1: none
  std::string heartbeat_salt;  // JobSpec::heartbeat_salt
};

}  // namespace trireme
