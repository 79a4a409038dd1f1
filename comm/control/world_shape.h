#pragma once

#include <algorithm>
#include <cstddef>

#include "comm/comm_options.h"
#include "comm/control/rank_state.h"

namespace trireme {

// What the ranks of a job exchange: the coordinator sizes the shared memory by it and every rank
// attaches with it, so both must compute the same.
inline WorldShape world_shape(const JobSpec& job) {
  WorldShape shape;
  shape.tp = job.layout.tp;
  shape.pp = job.layout.pp;
  // Stages hand over float32 [n_tokens, hidden_size].
  const size_t n_values =
      static_cast<size_t>(job.max_batch_tokens) * static_cast<size_t>(job.hidden_size);
  shape.max_message_bytes = std::max<size_t>(n_values * sizeof(float), 4096);
  return shape;
}

}  // namespace trireme
