#pragma once

namespace trireme {

// How one group's ranks are arranged: pp stages of tp ranks. tp varies fastest, so world rank
// = pp_rank * tp + tp_rank.
struct Layout {
  int tp = 1;
  int pp = 1;

  int n_ranks() const { return tp * pp; }
  int world_rank(int pp_rank, int tp_rank) const { return pp_rank * tp + tp_rank; }
  int tp_rank(int world_rank) const { return world_rank % tp; }
  int pp_rank(int world_rank) const { return world_rank / tp; }
  bool operator==(const Layout&) const = default;
};

}  // namespace trireme
