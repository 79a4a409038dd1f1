#include <chrono>
#include <nlohmann/json.hpp>

#include "coordinator/admin/admin_client.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/machine.h"
#include "coordinator/cli/say.h"

namespace trireme {
namespace {

// The server's own deadlines end a change sooner.
constexpr std::chrono::hours kReplicasDeadline{2};

}  // namespace

int replicas_command(const ReplicasOptions& options) {
  const std::string done = ask_server(run_folder_base(), options.pid, "replicas",
                                      {{"action", options.action},
                                       {"hosts", options.hosts},
                                       {"replica", options.replica},
                                       {"within_s", options.within_s}},
                                      kReplicasDeadline + std::chrono::seconds(options.within_s),
                                      [](const std::string& line) { say(stderr, "{}\n", line); });
  say(stdout, "{}\n", done);
  return 0;
}

}  // namespace trireme
