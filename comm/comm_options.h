#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "kernels/check.h"

namespace trireme {

// The ranks of one group and what they exchange; equal on every rank. Tensor-parallel ranks vary
// fastest: world rank = pp_rank * tp + tp_rank.
struct WorldShape {
  int tp = 1;
  int pp = 1;
  // Largest tensor of send and recv that still fits twice between two ranks.
  size_t max_message_bytes = size_t{8} << 20;
  // Staging space of one rank: a collective that needs more goes in pieces of this size.
  size_t piece_bytes = size_t{512} << 10;

  int size() const { return tp * pp; }
  int tp_rank(int world_rank) const { return world_rank % tp; }
  int pp_rank(int world_rank) const { return world_rank / tp; }
  bool operator==(const WorldShape&) const = default;
};

// How ranks wait and which algorithm they choose; equal on every rank.
struct CommOptions {
  // The longest one wait for a peer may take before the whole group gives up.
  std::chrono::milliseconds deadline{30'000};
  // all_reduce_tree: from this size of one partial on, each rank sums a slice and hands it out;
  // below it, every rank sums everything. The bits are the same.
  int64_t sliced_from_bytes = int64_t{256} << 10;
};

inline void check_shape(const WorldShape& shape) {
  TRIREME_CHECK(shape.tp >= 1 && shape.pp >= 1);
  TRIREME_CHECK(shape.max_message_bytes >= 1 && shape.piece_bytes >= 4096);
}

}  // namespace trireme
