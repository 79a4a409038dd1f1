#include "coordinator/cli/upgrade_handler.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "comm/control/build_id.h"
#include "coordinator/cli/command_line.h"
#include "coordinator/handover/handover_codec.h"
#include "coordinator/handover/handover_exec.h"
#include "kernels/result.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kHalfReadDeadline{2};  // for a client to send the rest of a request
constexpr std::chrono::seconds kStepDeadline{10};     // for plans in flight
constexpr std::chrono::seconds kSettleDeadline{2};    // for handlers, journal and connections
constexpr std::chrono::seconds kGroupsDeadline{1};
constexpr std::chrono::milliseconds kPoll{10};
constexpr int kMostWaitS = 86400;

// Ends with the server as it was, unless the process went on as another program.
class Held {
 public:
  explicit Held(ApiSession& served) : served_(served) {}
  ~Held() {
    served_.session().core().go_on();
    served_.api().go_on();
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  ApiSession& served_;
};

void refuse_unless_empty(const std::string& problem) {
  if (!problem.empty()) throw EnvironmentError("not upgraded, the server goes on: " + problem);
}

void check_program(const std::string& program) {
  struct stat status {};
  if (stat(program.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
      access(program.c_str(), X_OK) == 0) {
    return;
  }
  refuse_unless_empty(program + " is no program that the server can run: give it one on its disk");
}

void check_version(int version, const std::string& build) {
  if (version == kHandoverVersion) return;
  refuse_unless_empty(fmt::format(
      "trireme {} takes over in form {}, this server ({}) hands over in form {}: end it "
      "with SIGTERM and start the new one",
      build, version, build_id(), kHandoverVersion));
}

}  // namespace

void UpgradeHandler::run(const nlohmann::json& request, const AdminServer::Tell& tell) {
  const auto program = request.at("program").get<std::string>();
  const int wait_s = std::clamp(request.at("wait_s").get<int>(), 0, kMostWaitS);
  check_version(request.at("handover").get<int>(), request.at("build").get<std::string>());
  check_program(program);
  if (read_serve_options(arguments_) != options_) {
    refuse_unless_empty(
        "its file of options has changed since it was started, and the ranks that run would not "
        "fit: change it back, or end the server and start the new one");
  }
  if (!turn_.begin_upgrade()) refuse_unless_empty("it is ending");
  try {
    hand_over(program, wait_s, tell);
  } catch (...) {
    turn_.end_upgrade();
    throw;
  }
}

// Clients under TLS cannot be taken over: the state of their encryption stays in this program.
void UpgradeHandler::close_tls_connections(int wait_s, const AdminServer::Tell& tell) {
  const auto end = Clock::now() + std::chrono::seconds(wait_s);
  if (served_.api().n_connections() > 0)
    tell(fmt::format("waiting up to {} s for the answers to HTTPS clients to end", wait_s));
  while (served_.api().n_connections() > 0) {
    if (Clock::now() >= end) {
      refuse_unless_empty(
          "answers to HTTPS clients still run, and their connections cannot be handed over: try "
          "again later, or wait longer (--wait SECONDS)");
    }
    std::this_thread::sleep_for(kPoll);
  }
}

void UpgradeHandler::hand_over(const std::string& program, int wait_s,
                               const AdminServer::Tell& tell) {
  ApiServer& api = served_.api();
  InferenceCore& core = served_.session().core();
  const Held held(served_);
  api.hold_new_work(kHalfReadDeadline);
  if (!options_.tls_cert.empty()) close_tls_connections(wait_s, tell);
  HandoverState state;
  state.held_at_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now().time_since_epoch())
          .count();
  refuse_unless_empty(core.hold_plans(kStepDeadline));

  const auto settle = [&] {
    const bool settled = api.settle(Clock::now() + kSettleDeadline, [&core] {
      core.on_service([] {});
      core.on_service([] {});  // what the first was followed by
    });
    if (!settled) refuse_unless_empty("what it was doing was not done, or written, in time");
  };
  settle();
  api.hold_all();
  settle();  // clients that were found to be gone
  refuse_unless_empty(core.hold_groups(kGroupsDeadline));

  std::string problem = "a rank was lost";
  served_.describe(state);
  state.asker = tell.asker;
  state.api = api.state();
  core.on_service([&] {
    std::optional<CoreState> core_state = core.state();
    if (!core_state) return;
    state.core = *std::move(core_state);
    problem = exec_handover(program, arguments_, state);
  });
  refuse_unless_empty(problem);
}

}  // namespace trireme
