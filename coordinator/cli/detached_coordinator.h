#pragma once

#include <string>

namespace trireme {

// Whether mpirun started this process for `trireme serve`, and as which rank; -1: it did not.
int own_mpirun_rank(int argc, char** argv);

// For rank 0 of a user's own mpirun, before MPI_Init: runs the command line as a coordinator in a
// process of its own, in its own session, so that it outlives the MPI job's end and no rank waits
// for it in MPI_Init. What it prints comes out of this process, which ends soon after it does.
// Returns "host:port secret", or "tls://host:port secret": where and with what the ranks dial.
std::string start_detached_coordinator(int argc, char** argv);

}  // namespace trireme
