#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/control/step_plan.h"

namespace trireme {

// The first place where two runs differ, in the order in which a step computes.
struct TraceDifference {
  uint64_t step_id = 0;
  int32_t layer = 0;       // -1: before the first; n_layers: after the last
  int32_t op = 0;          // row of trace_op_name()
  int32_t unit = 0;        // head, leaf or vocabulary chunk
  int32_t world_rank = 0;  // whose bits differ
  char side = 'b';         // of which run
};

// Compares the hashes of run b with those of run a, and of each run's ranks among themselves (what
// several ranks hold must be the same on all). The entries are those of every rank and step. An
// entry that only one run has counts as a difference. None: every bit agrees.
std::optional<TraceDifference> compare_traces(const std::vector<StepResult>& a,
                                              const std::vector<StepResult>& b);

}  // namespace trireme
