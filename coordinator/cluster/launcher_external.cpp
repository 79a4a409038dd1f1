#include <fmt/format.h>

#include "coordinator/cluster/launchers.h"

namespace trireme {

std::vector<LaunchCommand> external_commands(const LaunchSpec&, const LaunchContext&) { return {}; }

std::string external_instructions(const LaunchSpec& spec, uint16_t port) {
  return fmt::format(
      "waiting for {} ranks (TP {} x PP {}); with TRIREME_SECRET set to the coordinator's, start "
      "them under MPI: mpirun -np {} -x TRIREME_SECRET trireme worker --comm mpi --coordinator {}",
      spec.job.layout.n_ranks(), spec.job.layout.tp, spec.job.layout.pp, spec.job.layout.n_ranks(),
      dial_address(spec.control_tls, spec.control_address, port));
}

}  // namespace trireme
