#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/control/rank_state.h"

namespace trireme {

enum class LauncherKind : uint8_t { kLocal, kMpirun, kSrun, kExternal };

// How long a group is waited for, in milliseconds. docs/deadlines.md lists them for people.
struct GroupDeadlines {
  int32_t launch_ms = 60000;   // until every rank said hello
  int32_t join_ms = 3000;      // the same, after the group served: at least, see docs/deadlines.md
  int32_t load_ms = 600000;    // and then until every rank is ready, without progress
  int32_t heartbeat_ms = 400;  // nothing heard from one rank
  int32_t stall_ms = 1000;     // all ranks waiting and no tick: deadlock
  int32_t step_ms = 120000;    // plan in flight and no tick from a computing rank
  int32_t stop_ms = 5000;      // told to end; then killed
  int32_t push_ms = 600000;    // until every rank has new weights ready
  int32_t sleep_ms = 600000;   // for requests that run, before a sleep that waits for them
  int32_t silence_ms = 3000;   // a rank that hears nothing from the coordinator ends
  int32_t comm_ms = 30000;     // a rank in one collective, or with plans it cannot keep up with
  int32_t backoff_initial_ms = 100;  // before a launch after a loss, doubled with each in a row
  int32_t backoff_max_ms = 10000;
  int32_t crash_window_ms = 60000;
  int32_t max_crashes = 5;    // in crash_window_ms: no further tries
  int32_t reach_ms = 200;     // after a loss, for a host that the network does not reach
  int32_t probe_ms = 3000;    // for hosts that are asked whether they can start ranks
  int32_t return_ms = 60000;  // on a smaller layout, before a larger one is tried
  bool operator==(const GroupDeadlines&) const = default;
};

// A layout that a group may be launched with.
struct LayoutChoice {
  Layout layout;
  int64_t kv_bytes = 0;  // JobSpec::kv_bytes
  bool operator==(const LayoutChoice&) const = default;
};

// Everything needed to start one group of ranks and start it again.
struct LaunchSpec {
  LauncherKind launcher = LauncherKind::kLocal;
  int replica = 0;                            // its number among all
  JobSpec job;                                // layout, packed file, limits
  std::vector<std::string> hosts;             // mpirun, srun: empty for this host only
  std::vector<std::string> launcher_args;     // extra arguments of mpirun or srun, verbatim
  std::string control_address = "127.0.0.1";  // where ranks reach the coordinator
  uint16_t control_port = 0;                  // 0: any free port
  bool ranks_are_coming = false;  // external: they were started already, nobody needs telling how
  std::string executable;         // path of the trireme binary on the ranks' hosts
  std::string secret;             // shared by coordinator and ranks
  bool control_tls = false;       // their connections: under TLS, or in clear
  std::string run_folder;         // per-coordinator folder for per-epoch folders
  GroupDeadlines deadlines;
  // What to go on with where the job's own layout cannot be had any more, best first.
  std::vector<LayoutChoice> smaller_layouts;
};

}  // namespace trireme
