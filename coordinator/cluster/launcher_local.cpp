#include <fmt/format.h>

#include <csignal>

#include "coordinator/cluster/launchers.h"

namespace trireme {

std::vector<LaunchCommand> local_commands(const LaunchSpec& spec, const LaunchContext& context) {
  const int n_ranks = spec.job.layout.n_ranks();
  std::vector<LaunchCommand> commands;
  for (int rank = 0; rank < n_ranks; ++rank) {
    commands.push_back({.name = fmt::format("rank {}", rank),
                        .argv = {spec.executable, "worker", "--comm", "region", "--coordinator",
                                 dial_address(spec.control_tls, "127.0.0.1", context.port),
                                 "--rank", std::to_string(rank), "--world", std::to_string(n_ranks),
                                 "--region-fd", std::to_string(context.region_fd)},
                        .environment = launch_environment(spec, context.epoch),
                        .death_signal = SIGKILL});
  }
  return commands;
}

}  // namespace trireme
