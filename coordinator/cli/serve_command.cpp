#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <map>

#include "comm/control/build_id.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/say.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/signals.h"
#include "coordinator/http/api_server.h"
#include "coordinator/http/tokenizer_codec.h"
#include "kernels/result.h"
#include "model/model_folder.h"

namespace trireme {
namespace {

constexpr int kPollMs = 250;
constexpr std::chrono::minutes kDrainDeadline{10};

std::string served_name(const ClusterOptions& options) {
  if (!options.served_name.empty()) return options.served_name;
  if (options.model == "demo") return "demo";
  const auto path = std::filesystem::weakly_canonical(options.model);
  return path.filename().empty() ? path.parent_path().filename().string()
                                 : path.filename().string();
}

// Gauges of the ranks, from their last heartbeats. A stage's time is that of its first rank in the
// first replica.
void update_rank_metrics(const Session& session, InferenceCore& core, Metrics& metrics) {
  int n_alive = 0;
  uint64_t loaded = 0;
  uint64_t total = 0;
  uint64_t comm_us = 0;
  const Layout layout = session.options().layout;
  for (const ReplicaSnapshot& replica : core.replicas()) {
    n_alive += replica.n_ranks_alive;
    loaded += replica.loaded_bytes;
    total += replica.total_bytes;
    for (const RankInfo& rank : replica.ranks) {
      comm_us += rank.last_state.comm_us;
      if (replica.replica != 0 || layout.tp_rank(rank.world_rank) != 0) continue;
      const uint64_t us = rank.last_state.busy_us - std::min(rank.last_state.busy_us,
                                                             rank.last_state.comm_us);
      metrics.set_stage_busy(layout.pp_rank(rank.world_rank), static_cast<double>(us) * 1e-6);
    }
  }
  metrics.set_ranks_alive(n_alive);
  metrics.set_comm(static_cast<double>(comm_us) * 1e-6);
  if (total > 0) {
    metrics.set_load_progress(static_cast<double>(loaded) / static_cast<double>(total));
  }
}

// Serves until a signal (true) or until no replica can ever serve (false).
bool serve_until_ended(Session& session, ApiServer& api, Metrics& metrics, EndSignals& signals) {
  bool announced = false;
  for (;;) {
    if (signals.wait_for(kPollMs)) return true;
    if (session.hopeless()) return false;
    update_rank_metrics(session, session.core(), metrics);
    if (!announced && session.core().status().ready) {
      announced = true;
      say(stdout, "{}serving  http://{}:{}/v1\n", session.banner(), session.options().host,
                 api.port());
        }
  }
}

// Refuses new work and lets what runs end; a second signal ends at once.
void drain(ApiServer& api, EndSignals& signals) {
  say(stdout, "draining: running requests end, new ones are refused; a second signal ends at once\n");
  const auto end = std::chrono::steady_clock::now() + kDrainDeadline;
  while (!api.drain(kPollMs) && std::chrono::steady_clock::now() < end) {
    if (signals.wait_for(0)) return;
  }
}

}  // namespace

int serve_command(const ClusterOptions& options) {
  EndSignals signals;
  const auto codec = load_tokenizer_codec(resolve_model(options.model));
  const std::string name = served_name(options);
  Metrics metrics({.model_name = name, .version = std::string(build_id())});
  Session session(options, metrics.observer());
  ApiServer api(session.core(), *codec,
                {.id = name,
                 .created = std::time(nullptr),
                 .context_length = session.context_length(),
                 .vocab_size = session.config().vocab_size},
                metrics, {.host = options.host, .port = options.port, .limits = {}});
  api.start();
  session.on_hopeless([&signals] { signals.wake(); });
  session.start();
  const bool asked = serve_until_ended(session, api, metrics, signals);
  if (asked) drain(api, signals);
  api.stop();
  session.stop();
  if (!asked) throw EnvironmentError(*session.hopeless());
  return 0;
}

}  // namespace trireme
