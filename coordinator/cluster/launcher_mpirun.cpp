#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <csignal>

#include "coordinator/cluster/launchers.h"

namespace trireme {

// Options of OpenMPI 4.1. Why each: ranks yield the processor while they wait, because they may
// outnumber the cores; ranks have threads of their own, so nothing is bound; a dead rank ends the
// job at once, without the grace of seconds; files of the job lie in a folder that goes with the
// epoch, so that nothing is left however it dies. The secret travels in the environment, not on the
// command line, where everybody could read it.
std::vector<LaunchCommand> mpirun_commands(const LaunchSpec& spec, const LaunchContext& context) {
  LaunchCommand command{.name = "mpirun",
                        .argv = {"mpirun", "-np", std::to_string(spec.job.layout.n_ranks())},
                        .environment = launch_environment(spec, context.epoch),
                        .death_signal = SIGTERM};
  std::vector<std::string>& argv = command.argv;
  const auto add = [&argv](std::initializer_list<std::string> arguments) {
    argv.insert(argv.end(), arguments);
  };
  if (!spec.hosts.empty()) {
    std::vector<std::string> slots;
    for (const HostSlots& host : place_ranks(spec.job.layout, spec.hosts)) {
      slots.push_back(fmt::format("{}:{}", host.host, host.n_slots));
    }
    add({"--host", fmt::format("{}", fmt::join(slots, ","))});
    // Or OpenMPI cuts names at the first dot, and reaches another host or none.
    add({"--mca", "orte_keep_fqdn_hostnames", "1"});
  }
  add({"--map-by", "slot:OVERSUBSCRIBE", "--oversubscribe", "--bind-to", "none"});
  add({"--mca", "mpi_yield_when_idle", "1"});
  add({"--mca", "odls_base_sigkill_timeout", "0"});
  add({"--mca", "btl_vader_backing_directory", context.epoch_folder});
  add({"--mca", "orte_tmpdir_base", context.epoch_folder});
  for (const auto& [name, value] : launch_environment(spec, context.epoch)) add({"-x", name});
  argv.insert(argv.end(), spec.launcher_args.begin(), spec.launcher_args.end());
  if (context.is_probe) {
    add({spec.executable, "--version"});
  } else {
    add({spec.executable, "worker", "--comm", "mpi", "--coordinator",
         dial_address(spec.control_tls, spec.control_address, context.port)});
  }
  if (geteuid() == 0) {
    command.environment.emplace_back("OMPI_ALLOW_RUN_AS_ROOT", "1");
    command.environment.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  return {command};
}

}  // namespace trireme
