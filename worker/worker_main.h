#pragma once

namespace trireme {

// `trireme worker --comm region|mpi --coordinator HOST:PORT [--rank R --world N --region-fd F]`: one
// rank, started by a launcher. The secret and the epoch come in TRIREME_SECRET and TRIREME_EPOCH.
// Returns the exit status.
int worker_main(int argc, char** argv);

}  // namespace trireme
