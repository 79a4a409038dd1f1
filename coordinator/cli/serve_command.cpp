#include <fmt/format.h>
#include <sys/socket.h>

#include <chrono>
#include <exception>
#include <nlohmann/json.hpp>
#include <thread>

#include "comm/control/build_id.h"
#include "coordinator/admin/admin_server.h"
#include "coordinator/cli/api_session.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/say.h"
#include "coordinator/cli/signal_turn.h"
#include "coordinator/cli/signals.h"
#include "coordinator/cli/upgrade_handler.h"
#include "coordinator/handover/handover_exec.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr int kPollMs = 250;
constexpr std::chrono::minutes kDrainDeadline{10};
constexpr std::chrono::seconds kTakeOverDeadline{5};
constexpr std::chrono::milliseconds kTakeOverPoll{1};

// Serves until a signal (true) or until no replica can ever serve (false).
bool serve_until_ended(ApiSession& served, EndSignals& signals, SignalTurn& turn) {
  bool announced = false;
  for (;; turn.leave()) {
    turn.enter();
    const bool signalled = signals.wait_for(kPollMs);
    if (signalled || served.session().hopeless()) {
      turn.end();
      return signalled;
    }
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

// Lets the clients go on, as soon as the ranks do, and tells the one who asked.
void begin_where_another_left(ApiSession& served, const HandoverState& taken) {
  const auto end = std::chrono::steady_clock::now() + kTakeOverDeadline;
  while (!served.session().core().status().ready && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(kTakeOverPoll);
  served.api().go_on();
  const int64_t now_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                             std::chrono::steady_clock::now().time_since_epoch())
                             .count();
  const std::string result = fmt::format(
      "trireme {} serves as process {}: {} answers and {} connections went on after {} ms",
      build_id(), getpid(), taken.api.answers.size() + taken.api.pooling.size(),
      taken.api.connections.size(), now_ms - taken.held_at_ms);
  say(stdout, "{}\n", result);
  AdminLines(UniqueFd(taken.asker)).write(admin_result(result));
}

// `trireme replicas`.
std::string change_replicas(Session& session, const nlohmann::json& request) {
  const auto action = request.at("action").get<std::string>();
  if (action == "add")
    return session.add_replica(request.at("hosts").get<std::vector<std::string>>());
  if (action == "remove") {
    return session.remove_replica(request.at("replica").get<int>(),
                                  std::chrono::seconds(request.at("within_s").get<int>()));
  }
  return session.list_replicas();
}

// All but the service, which has the main thread.
void control(ApiSession& served, EndSignals& signals, const ClusterOptions& options,
             const std::vector<std::string>& arguments, const HandoverState* taken) {
  if (taken != nullptr) begin_where_another_left(served, *taken);
  SignalTurn turn;
  UpgradeHandler upgrade(served, turn, options, arguments);
  const AdminServer admin(
      served.session().run_folder(),
      {{"push",
        [&served](const nlohmann::json& request, const AdminServer::Tell& tell) {
          return served.push(request.at("model").get<std::string>(), tell);
        }},
       {"replicas",
        [&served](const nlohmann::json& request, const AdminServer::Tell&) {
          return change_replicas(served.session(), request);
        }},
       {"upgrade", [&upgrade](const nlohmann::json& request, const AdminServer::Tell& tell) {
          upgrade.run(request, tell);
          return std::string();
        }}});
  const bool asked_to_end = serve_until_ended(served, signals, turn);
  served.session().refuse_pushes();
  if (!asked_to_end) throw EnvironmentError(*served.session().hopeless());
  drain(served.api(), signals);
}

}  // namespace

int serve_command(const ClusterOptions& options, const std::vector<std::string>& arguments) {
  std::optional<HandoverState> taken = take_handover();
  // Who may use the server can change while it runs; without keys and TLS, SIGHUP ends it.
  EndSignals signals(/*hangups=*/!options.api_keys.empty() || !options.tls_cert.empty());
  ClusterOptions present = options;
  if (taken) {  // 'demo' may mean another folder to another program
    present.model = taken->model;
    present.served_name = taken->served_name;
  }
  ApiSession served(present, taken ? &*taken : nullptr);
  served.open();
  served.session().on_hopeless([&signals] { signals.wake(); });
  std::exception_ptr failure;
  std::thread controller([&] {
    try {
      control(served, signals, options, arguments, taken ? &*taken : nullptr);
    } catch (...) {
      failure = std::current_exception();
    }
    served.close();
  });
  served.session().run();
  controller.join();
  if (failure) std::rethrow_exception(failure);
  return 0;
}

}  // namespace trireme
