#include "coordinator/cluster/launchers.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "comm/control/dial.h"
#include "kernels/check.h"

namespace trireme {
namespace {

std::string own_host_name() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "";
}

}  // namespace

Environment launch_environment(const LaunchSpec& spec, uint64_t epoch) {
  return {{"TRIREME_SECRET", spec.secret},
          {"TRIREME_REPLICA", std::to_string(spec.replica)},
          {"TRIREME_EPOCH", std::to_string(epoch)}};
}

HostSlots parse_host(const std::string& entry) {
  const size_t colon = entry.rfind(':');
  if (colon == std::string::npos || entry.find(':') != colon) return {entry, 0};
  int n_slots = 0;
  const char* end = entry.data() + entry.size();
  const auto parsed = std::from_chars(entry.data() + colon + 1, end, n_slots);
  if (parsed.ec != std::errc() || parsed.ptr != end || n_slots < 1) return {entry, 0};
  return {entry.substr(0, colon), n_slots};
}

std::vector<HostSlots> place_ranks(const Layout& layout, const std::vector<std::string>& hosts) {
  std::vector<HostSlots> placed;
  for (const std::string& host : hosts) placed.push_back(parse_host(host));
  const bool given =
      std::any_of(placed.begin(), placed.end(), [](const HostSlots& h) { return h.n_slots > 0; });
  const int n_hosts = static_cast<int>(placed.size());
  const int unit = layout.pp >= n_hosts ? layout.tp : 1;
  const int n_units = layout.n_ranks() / unit;
  for (int i = 0; i < n_hosts; ++i) {
    HostSlots& host = placed[static_cast<size_t>(i)];
    if (given) {
      host.n_slots = std::max(host.n_slots, 1);
    } else {
      host.n_slots = unit * ((i + 1) * n_units / n_hosts - i * n_units / n_hosts);
    }
  }
  std::erase_if(placed, [](const HostSlots& host) { return host.n_slots == 0; });
  return placed;
}

std::vector<LaunchCommand> launch_commands(const LaunchSpec& spec, const LaunchContext& context) {
  switch (spec.launcher) {
    case LauncherKind::kLocal: return local_commands(spec, context);
    case LauncherKind::kMpirun: return mpirun_commands(spec, context);
    case LauncherKind::kSrun: return srun_commands(spec, context);
    case LauncherKind::kExternal: return external_commands(spec, context);
  }
  TRIREME_CHECK_MSG(false, "an unknown launcher");
}

std::string launch_spec_problem(const LaunchSpec& spec) {
  const bool over_mpi =
      spec.launcher == LauncherKind::kMpirun || spec.launcher == LauncherKind::kSrun;
  if (over_mpi && is_loopback(spec.control_address)) {
    const std::string own = own_host_name();
    for (const std::string& entry : spec.hosts) {
      const std::string host = parse_host(entry).host;
      if (is_loopback(host) || host == own) continue;
      return fmt::format(
          "ranks on host {} cannot reach the coordinator at {}: set the control address to an "
          "address of this host that they can reach",
          host, spec.control_address);
    }
  }
  if (spec.launcher == LauncherKind::kMpirun && !spec.hosts.empty()) {
    int n_slots = 0;
    for (const HostSlots& host : place_ranks(spec.job.layout, spec.hosts)) n_slots += host.n_slots;
    if (n_slots < spec.job.layout.n_ranks()) {
      return fmt::format(
          "the hosts have {} slots for the {} ranks of TP {} x PP {}: name more "
          "hosts or slots",
          n_slots, spec.job.layout.n_ranks(), spec.job.layout.tp, spec.job.layout.pp);
    }
  }
  return "";
}

std::string dial_address(bool tls, const std::string& host, uint16_t port) {
  const bool bare = host.find(':') == std::string::npos;
  return fmt::format("{}{}{}{}:{}", tls ? kTlsScheme : "", bare ? "" : "[", host, bare ? "" : "]",
                     port);
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
}

}  // namespace trireme
