#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "coordinator/admin/admin_server.h"
#include "coordinator/cli/api_session.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/say.h"
#include "coordinator/cli/signals.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr int kPollMs = 250;
constexpr std::chrono::minutes kDrainDeadline{10};

// Serves until a signal (true) or until no replica can ever serve (false).
bool serve_until_ended(ApiSession& served, EndSignals& signals) {
  bool announced = false;
  for (;;) {
    if (signals.wait_for(kPollMs)) return true;
    if (served.session().hopeless()) return false;
    if (signals.take_hangup()) served.reload_access();
    served.update_metrics();
    if (!announced && served.session().core().status().ready) {
      announced = true;
      const bool tls = !served.session().options().tls_cert.empty();
      say(stdout, "{}serving  {}://{}:{}/v1\n", served.session().banner(), tls ? "https" : "http",
          served.session().options().host, served.api().port());
    }
  }
}

// Refuses new work and lets what runs end; a second signal ends at once.
void drain(ApiServer& api, EndSignals& signals) {
  say(stdout,
      "draining: running requests end, new ones are refused; a second signal ends at once\n");
  const auto end = std::chrono::steady_clock::now() + kDrainDeadline;
  while (!api.drain(kPollMs) && std::chrono::steady_clock::now() < end) {
    if (signals.wait_for(0)) return;
  }
}

}  // namespace

int serve_command(const ClusterOptions& options) {
  // Who may use the server can change while it runs; without keys and TLS, SIGHUP ends it.
  EndSignals signals(/*hangups=*/!options.api_keys.empty() || !options.tls_cert.empty());
  ApiSession served(options);
  served.open();
  served.session().on_hopeless([&signals] { signals.wake(); });
  served.session().start();
  const auto push = [&served](const nlohmann::json& arguments, const AdminServer::Tell& tell) {
    return served.push(arguments.at("model").get<std::string>(), tell);
  };
  const AdminServer admin(served.session().run_folder(), {{"push", push}});
  const bool asked_to_end = serve_until_ended(served, signals);
  served.session().refuse_pushes();
  if (!asked_to_end) throw EnvironmentError(*served.session().hopeless());
  drain(served.api(), signals);
  return 0;
}

}  // namespace trireme
