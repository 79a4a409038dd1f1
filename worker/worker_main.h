#pragma once

#include <string>

namespace trireme {

// `trireme worker --comm region|mpi --coordinator HOST:PORT [--rank R --world N --region-fd F]`:
// one rank, started by a launcher. The secret and the epoch come in TRIREME_SECRET and
// TRIREME_EPOCH. Returns the exit status.
int worker_main(int argc, char** argv);

// A rank of a user's own mpirun: rank 0 gives "host:port secret" of the coordinator it started, the
// others give "" and are told over MPI. Returns the exit status.
int joined_worker_main(const std::string& endpoint);

}  // namespace trireme
