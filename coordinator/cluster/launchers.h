#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/cluster/launch_spec.h"

namespace trireme {

using Environment = std::vector<std::pair<std::string, std::string>>;

// A program to start, without a shell.
struct LaunchCommand {
  std::string name;               // "rank 1", "mpirun": for people
  std::vector<std::string> argv;  // argv[0] is looked up in PATH
  Environment environment;        // on top of this process's own
  int death_signal = 0;           // what it gets when the coordinator dies
};

// What the processes of one launch carry in their environment, and those of no other.
Environment launch_environment(const LaunchSpec& spec, uint64_t epoch);

// What one launch has of its own.
struct LaunchContext {
  uint64_t epoch = 0;
  uint16_t port = 0;         // where ranks dial
  int region_fd = -1;        // local: shared memory of the ranks
  std::string epoch_folder;  // exists, is removed when the epoch ends
  bool is_probe = false;     // one process that says its version, in place of the ranks
};

// Where ranks go: consecutive ranks fill one host after another.
struct HostSlots {
  std::string host;
  int n_slots = 0;
  bool operator==(const HostSlots&) const = default;
};

// "name:4" -> name, 4; "name" -> name, 0.
HostSlots parse_host(const std::string& entry);

// Pipeline stages are kept whole on one host where there are at least as many as hosts. Hosts that
// say "name:slots" are taken at their word. Hosts left without a rank are not named.
std::vector<HostSlots> place_ranks(const Layout& layout, const std::vector<std::string>& hosts);

// The programs that bring up the ranks of one epoch. Pure functions; the external launcher starts
// nothing.
std::vector<LaunchCommand> local_commands(const LaunchSpec& spec, const LaunchContext& context);
std::vector<LaunchCommand> mpirun_commands(const LaunchSpec& spec, const LaunchContext& context);
std::vector<LaunchCommand> srun_commands(const LaunchSpec& spec, const LaunchContext& context);
std::vector<LaunchCommand> external_commands(const LaunchSpec& spec, const LaunchContext& context);
std::vector<LaunchCommand> launch_commands(const LaunchSpec& spec, const LaunchContext& context);

// What a person who starts the ranks themselves must run.
std::string external_instructions(const LaunchSpec& spec, uint16_t port);

// Why this spec cannot work, in one line with the mend; empty when nothing is known against it.
std::string launch_spec_problem(const LaunchSpec& spec);

// Of what a failed launch wrote, the one line that says most about why, with a mend where a known
// one fits; empty when it wrote nothing.
std::string most_telling_line(const std::string& output);

// Where a rank dials: "host:port", with brackets where the host is an IPv6 address, and "tls://"
// before it where the connection is under TLS.
std::string dial_address(bool tls, const std::string& host, uint16_t port);

// Whether only this host can reach such an address.
bool is_loopback(const std::string& host);

}  // namespace trireme
