#include <cstdio>
#include <cstring>
#include <exception>

#include "coordinator/cli/command_line.h"
#include "coordinator/cli/detached_coordinator.h"
#include "worker/worker_main.h"

// One binary: `trireme worker ...` is a rank, everything else is the coordinator's command line.
// Under a user's own mpirun, `trireme serve` is both: rank 0 starts the coordinator, and all become
// ranks.
int main(int argc, char** argv) {
  if (argc >= 2 && std::strcmp(argv[1], "worker") == 0) return trireme::worker_main(argc, argv);
  const int rank = trireme::own_mpirun_rank(argc, argv);
  if (rank < 0) return trireme::command_line_main(argc, argv);
  try {
    return trireme::joined_worker_main(rank == 0 ? trireme::start_detached_coordinator(argc, argv)
                                                 : "");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "trireme: %s\n", error.what());
    return 1;
  }
}
