// What becomes of a session's replicas, and commands that change their set.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <future>
#include <memory>

#include "coordinator/cli/say.h"
#include "coordinator/cli/session.h"
#include "kernels/result.h"

namespace trireme {
namespace {

// Every group has deadlines of its own, and several tries. This one is for what they forget.
constexpr std::chrono::hours kChangeDeadline{1};

struct Outcome {
  int replica = -1;
  std::string failure;
};

// Calls `begin` with the handler of a change and waits for its end. Returns the replica.
int wait_for_change(std::chrono::seconds deadline,
                    const std::function<void(InferenceCore::ReplicaHandler)>& begin) {
  const auto end = std::make_shared<std::promise<Outcome>>();
  std::future<Outcome> outcome = end->get_future();
  begin([end](int replica, const std::string& failure) { end->set_value({replica, failure}); });
  if (outcome.wait_for(deadline) != std::future_status::ready)
    throw EnvironmentError(
        "it has not ended in time, and goes on: look with trireme replicas list");
  const Outcome ended = outcome.get();
  if (!ended.failure.empty()) throw EnvironmentError(ended.failure);
  return ended.replica;
}

const char* status_name(const ReplicaSnapshot& replica) {
  if (replica.leaving) return "leaving";
  switch (replica.status) {
    case GroupStatus::kStopped: return "without ranks";
    case GroupStatus::kLaunching:
    case GroupStatus::kLoading:
    case GroupStatus::kBackoff: return "starting";
    case GroupStatus::kServing: return "serving";
    case GroupStatus::kBroken: return "broken";
  }
  return "";
}

std::vector<std::string> hosts_of(const std::vector<RankInfo>& ranks) {
  std::vector<std::string> hosts;
  for (const RankInfo& rank : ranks) {
    if (std::find(hosts.begin(), hosts.end(), rank.host) == hosts.end()) hosts.push_back(rank.host);
  }
  return hosts;
}

}  // namespace

ReplicaListener Session::listener() {
  ReplicaListener l;
  l.on_loading = [this](int, uint64_t done, uint64_t total) { loading_.update(done, total); };
  l.on_serving = [this](int replica, const GroupCapacity& capacity) {
    const std::lock_guard lock(mutex_);
    ReplicaSeen& seen = seen_.at(static_cast<size_t>(replica));
    if (seen.layout != capacity.layout) say(stderr, "{}\n", layout_line(replica, capacity));
    seen.layout = capacity.layout;
    seen.served = true;
    if (all_served()) loading_.complete();
    changed_.notify_all();
  };
  l.on_lost = [](int replica, const std::string& cause, const std::string& detail) {
    if (cause == kRegroupCause) {
      say(stderr, "replica {} is started again: {}\n", replica, detail);
      return;
    }
    // After a failure that the rank itself told of, the group is not started again.
    say(stderr, "replica {} lost ({}): {}{}\n", replica, cause, detail,
        cause == "failure" ? "" : "; starting it again");
  };
  l.on_broken = [this](int replica, const std::string& error) {
    std::function<void()> callback;
    {
      const std::lock_guard lock(mutex_);
      seen_.at(static_cast<size_t>(replica)).broken = true;
      error_ = error;
      if (none_left()) callback = on_hopeless_;
    }
    changed_.notify_all();
    if (callback) callback();
  };
  l.on_joining = [this](int replica) {
    const std::lock_guard lock(mutex_);
    const auto index = static_cast<size_t>(replica);
    if (index >= seen_.size()) seen_.resize(index + 1);
    say(stderr, "replica {} joins: its ranks are being started\n", replica);
    seen_[index] = {.layout = options_.layout, .hosts = seen_[index].hosts};
  };
  l.on_left = [this](int replica) {
    const std::lock_guard lock(mutex_);
    ReplicaSeen& seen = seen_.at(static_cast<size_t>(replica));
    seen.in = seen.broken = false;
    say(stderr, "replica {} has left: its ranks have ended\n", replica);
  };
  l.on_weights_dropped = [](const std::string& id) {
    say(stderr, "trireme: no request is left that began on the weights {}; they are unmapped\n",
        id);
  };
  l.on_sleep = [](SleepPhase phase) {
    say(stderr, "trireme: {}\n",
        phase == SleepPhase::kAsleep ? "asleep: the ranks have ended" : "awake again: they serve");
  };
  return l;
}

// A replica's new layout: "replica 0 goes on with TP 1 x PP 1 on host-b (1 of 2 ranks)".
std::string Session::layout_line(int replica, const GroupCapacity& capacity) const {
  return fmt::format("replica {} goes on with TP {} x PP {} on {} ({} of {} ranks)", replica,
                     capacity.layout.tp, capacity.layout.pp,
                     fmt::join(hosts_of(capacity.ranks), ", "), capacity.layout.n_ranks(),
                     options_.layout.n_ranks());
}

void Session::on_hopeless(std::function<void()> callback) {
  const std::lock_guard lock(mutex_);
  on_hopeless_ = std::move(callback);
}

std::optional<std::string> Session::hopeless() const {
  const std::lock_guard lock(mutex_);
  return none_left() ? std::optional(error_) : std::nullopt;
}

// The supervisors' deadlines end this wait one way or the other.
void Session::wait_serving() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return all_served() || !error_.empty(); });
  if (!error_.empty()) throw EnvironmentError(error_);
}

// With mutex_ held, as the next one.
bool Session::all_served() const {
  return std::all_of(seen_.begin(), seen_.end(),
                     [](const ReplicaSeen& seen) { return seen.served || !seen.in; });
}

bool Session::none_left() const {
  return std::none_of(seen_.begin(), seen_.end(),
                      [](const ReplicaSeen& seen) { return seen.in && !seen.broken; });
}

std::vector<std::string> Session::own_hosts(int replica) const {
  const std::lock_guard lock(mutex_);
  return seen_.at(static_cast<size_t>(replica)).hosts;
}

// Before it joins: the hosts that its launches get.
void Session::see_new(size_t replica) {
  const std::lock_guard lock(mutex_);
  seen_.resize(std::max(seen_.size(), replica + 1));
  seen_[replica] = {.in = false, .layout = options_.layout, .hosts = joining_hosts_};
}

void Session::check_join(const std::vector<std::string>& hosts) const {
  if (options_.launcher == LauncherKind::kExternal) {
    throw EnvironmentError(
        "its ranks were started by somebody else, and nobody here could start others: use "
        "--launcher local, mpirun or srun");
  }
  if (hosts.empty()) return;
  if (options_.launcher == LauncherKind::kLocal) {
    throw EnvironmentError(
        "--hosts: the server starts its ranks on its own host alone (--launcher local): leave "
        "--hosts out, or start the server with --launcher mpirun or srun");
  }
  if (options_.control_address.rfind("127.", 0) == 0) {
    throw EnvironmentError(fmt::format(
        "--hosts: ranks reach the server at {}, which is this host alone: start it with "
        "--control-address ADDRESS",
        options_.control_address));
  }
}

std::string Session::add_replica(const std::vector<std::string>& hosts) {
  check_join(hosts);
  const int replica = wait_for_change(kChangeDeadline, [&](InferenceCore::ReplicaHandler on_end) {
    {
      const std::lock_guard lock(mutex_);
      joining_hosts_ = hosts;
    }
    core_->add_replica(/*anew=*/!hosts.empty(), std::move(on_end));
  });
  return fmt::format("replica {} serves", replica);
}

std::string Session::remove_replica(int replica, std::chrono::seconds patience) {
  wait_for_change(patience + kChangeDeadline, [&](InferenceCore::ReplicaHandler on_end) {
    core_->remove_replica(replica, patience, std::move(on_end));
  });
  return fmt::format("replica {} has left; its ranks have ended", replica);
}

std::string Session::list_replicas() const {
  std::string text;
  for (const ReplicaSnapshot& replica : core_->replicas()) {
    text += fmt::format(
        "{}replica {}  {}  TP {} x PP {}  {} of {} ranks on {}  {} running, {} waiting",
        text.empty() ? "" : "\n", replica.replica, status_name(replica), replica.layout.tp,
        replica.layout.pp, replica.n_ranks_alive, replica.layout.n_ranks(),
        fmt::join(hosts_of(replica.ranks), ", "), replica.n_running, replica.n_waiting);
  }
  return text;
}

}  // namespace trireme
