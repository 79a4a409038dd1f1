#include <chrono>
#include <nlohmann/json.hpp>

#include "comm/control/build_id.h"
#include "coordinator/admin/admin_client.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/machine.h"
#include "coordinator/cli/say.h"
#include "coordinator/handover/handover_codec.h"

namespace trireme {
namespace {

// Beyond what is waited for on purpose: the server's own deadlines, and the start of the new one.
constexpr std::chrono::seconds kUpgradeDeadline{60};

}  // namespace

int upgrade_command(const UpgradeOptions& options) {
  const std::string result =
      ask_server(run_folder_base(), options.pid, "upgrade",
                 {{"program", own_executable().string()},
                  {"build", std::string(build_id())},
                  {"handover", kHandoverVersion},
                  {"wait_s", options.wait_s}},
                 kUpgradeDeadline + std::chrono::seconds(options.wait_s),
                 [](const std::string& progress) { say(stderr, "{}\n", progress); });
  say(stdout, "{}\n", result);
  return 0;
}

}  // namespace trireme
