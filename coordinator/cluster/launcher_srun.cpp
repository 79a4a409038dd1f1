#include <fmt/format.h>
#include <fmt/ranges.h>

#include <csignal>

#include "coordinator/cluster/launchers.h"

namespace trireme {

// Slurm's pmix plugin wires the ranks up; one dead rank ends the step. --export=ALL hands on the
// environment, with the secret and OpenMPI's options, which have no command line here.
std::vector<LaunchCommand> srun_commands(const LaunchSpec& spec, const LaunchContext& context) {
  LaunchCommand command{.name = "srun",
                        .argv = {"srun", "--mpi=pmix", "--kill-on-bad-exit=1", "-n",
                                 std::to_string(spec.job.layout.n_ranks()), "--distribution=block",
                                 "--cpu-bind=none", "--export=ALL"},
                        .environment = launch_environment(spec, context.epoch),
                        .death_signal = SIGTERM};
  command.environment.emplace_back("OMPI_MCA_mpi_yield_when_idle", "1");
  std::vector<std::string>& argv = command.argv;
  if (!spec.hosts.empty()) {
    argv.push_back(fmt::format("--nodelist={}", fmt::join(spec.hosts, ",")));
  }
  argv.insert(argv.end(), spec.launcher_args.begin(), spec.launcher_args.end());
  if (context.is_probe) {
    argv.insert(argv.end(), {"--overlap", spec.executable, "--version"});
    return {command};
  }
  argv.insert(argv.end(), {spec.executable, "worker", "--comm", "mpi", "--coordinator",
                           dial_address(spec.control_tls, spec.control_address, context.port)});
  return {command};
}

}  // namespace trireme
