#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/control/rank_link.h"

namespace trireme {

// The collectives a rank can be waiting in, as heartbeats name them.
enum class WaitOp : int32_t { kNone, kAllReduce, kAllGather, kSend, kRecv };

// Passes every call on, telling the coordinator what the rank is waiting for, and for how long it
// waited in all. A deadlock shows as ranks that all wait and never tick.
std::unique_ptr<Communicator> monitor(std::unique_ptr<Communicator> inner, RankLink& link);

}  // namespace trireme
