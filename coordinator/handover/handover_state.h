#pragma once

#include <cstdint>
#include <string>

#include "coordinator/handover/api_state.h"
#include "coordinator/handover/metrics_state.h"
#include "coordinator/handover/serving_state.h"

namespace trireme {

// All that one coordinator leaves to the next, which the same process goes on as (docs/upgrade.md).
struct HandoverState {
  std::string secret;           // of the ranks
  std::string environment_key;  // TRIREME_API_KEY, which the process no longer has
  std::string run_folder;
  int run_folder_lock = -1;
  std::string model;  // where it was found
  std::string served_name;
  std::vector<std::vector<std::string>> replica_hosts;  // of each; none: those of all
  int asker = -1;                                       // the connection that is told how it went
  int64_t held_at_ms = 0;                               // steady clock: since then no plan was made
  CoreState core;
  ApiState api;
  MetricsState metrics;
};

}  // namespace trireme
