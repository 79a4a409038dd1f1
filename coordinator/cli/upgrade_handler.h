#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "coordinator/admin/admin_server.h"
#include "coordinator/cli/api_session.h"
#include "coordinator/cli/signal_turn.h"

namespace trireme {

// The server's side of `trireme upgrade`: brings everything to rest, and has the process go on as
// the program of the one who asks (docs/upgrade.md).
class UpgradeHandler {
 public:
  // `options` and `arguments`: what the server was started with.
  UpgradeHandler(ApiSession& served, SignalTurn& turn, const ClusterOptions& options,
                 std::vector<std::string> arguments)
      : served_(served), turn_(turn), options_(options), arguments_(std::move(arguments)) {}

  // Does not return when the upgrade succeeds. Throws EnvironmentError when it does not: the server
  // goes on as it was then.
  void run(const nlohmann::json& request, const AdminServer::Tell& tell);

 private:
  void hand_over(const std::string& program, int wait_s, const AdminServer::Tell& tell);
  void close_tls_connections(int wait_s, const AdminServer::Tell& tell);

  ApiSession& served_;
  SignalTurn& turn_;
  const ClusterOptions& options_;
  const std::vector<std::string> arguments_;
};

}  // namespace trireme
