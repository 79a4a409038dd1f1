#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cpu_topology.h"

namespace trireme {

// Where a rank runs, as the ranks of a job tell each other. Plain bytes.
struct RankPlace {
  std::array<char, 248> host{};  // zero-terminated
  uint64_t cpus = 0;             // fingerprint of the processors it may use
  bool operator==(const RankPlace&) const = default;
};

// What processes have in common that can share memory: the host's name and boot, and the space of
// process ids (containers of one machine have their own).
std::string this_host();

RankPlace make_place(std::string_view host, const std::vector<Cpu>& cpus);

// The ranks on the host of `rank`, itself too, ascending.
std::vector<int> ranks_on_host(const std::vector<RankPlace>& places, int rank);

// The share of `rank` in its processors: a launcher may have given each rank some of its own, or
// all of a host the same.
CpuShare cpu_share_of(const std::vector<RankPlace>& places, int rank);

}  // namespace trireme
