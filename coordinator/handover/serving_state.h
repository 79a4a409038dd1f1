#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/handover/group_state.h"
#include "coordinator/serving/block_manager.h"
#include "coordinator/serving/request_times.h"
#include "coordinator/serving/sequence.h"

namespace trireme {

// A scheduler with no plan in flight: all its sequences wait, with the KV blocks they have.
struct SchedulerState {
  uint64_t epoch = 0;
  uint64_t last_step_id = 0;
  int32_t n_blocks = 0;
  std::vector<Sequence> sequences;
  CachedBlocks cached;
};

struct ReplicaState {
  SchedulerState scheduler;
  GroupState group;
  std::string numerics_id;
  bool out = false;  // it has left
};

struct RequestState {
  RequestId id = 0;
  int32_t replica = -1;  // -1: none
  bool numerics_told = false;
  RequestMoments moments;
};

struct CoreState {
  RequestId last_id = 0;
  WeightsFile weights;                      // of all requests
  std::vector<std::string> weights_before;  // ServedWeights::before
  std::vector<ReplicaState> replicas;
  std::vector<RequestState> requests;
};

}  // namespace trireme
