#pragma once

#include <cstdint>
#include <string>

#include "kernels/result.h"

namespace trireme {

// How a launcher starts a rank.
struct WorkerOptions {
  enum class Comm : uint8_t { kRegion, kMpi };
  Comm comm = Comm::kRegion;
  std::string coordinator;  // host:port
  int32_t rank = 0;         // with kRegion; under MPI the job says
  int32_t world = 1;
  int region_fd = -1;   // with kRegion and world > 1: inherited memfd
  std::string secret;   // TRIREME_SECRET
  uint64_t epoch = 0;   // TRIREME_EPOCH
  std::string kernels;  // TRIREME_KERNELS: an instruction set by name; empty: the best here
};

// Parses `trireme worker ...` and the environment.
Result<WorkerOptions> parse_worker_options(int argc, char** argv);

}  // namespace trireme
