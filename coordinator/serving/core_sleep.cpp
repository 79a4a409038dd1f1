// A service without ranks for a while: their end, what becomes of requests, and their start.
#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "coordinator/serving/core_state.h"

namespace trireme {
namespace {

// Requests that were read and not yet submitted hold weights, and end without an event here.
constexpr std::chrono::milliseconds kSettlingPoll{20};

}  // namespace

void InferenceCore::sleep(SleepMode mode, SleepHandler on_end) {
  boost::asio::post(impl_->io, [impl = impl_.get(), mode, on_end = std::move(on_end)]() mutable {
    impl->begin_sleep(mode, std::move(on_end));
  });
}

void InferenceCore::wake_up(SleepHandler on_end) {
  boost::asio::post(impl_->io, [impl = impl_.get(), on_end = std::move(on_end)]() mutable {
    impl->begin_wake(std::move(on_end));
  });
}

void InferenceCore::Impl::tell_all(std::vector<SleepHandler>& handlers,
                                   const std::string& failure) {
  for (const SleepHandler& handler : std::exchange(handlers, {})) handler(failure);
}

void InferenceCore::Impl::set_phase(SleepPhase phase) {
  sleeping.phase = phase;
  const std::lock_guard lock(gate.mutex);
  gate.status.sleep = phase;
}

std::string InferenceCore::Impl::why_not_sleep() const {
  if (!no_changes.empty()) return no_changes;
  if (holding) return "the server is being upgraded; try again when it has been";
  if (push) return "new weights are being pushed; try again when they are in use";
  if (change) return "a replica joins or leaves; try again when it has";
  for (const std::unique_ptr<Replica>& replica : replicas) {
    if (std::string why = replica->group->restart_problem(); !why.empty()) return why;
  }
  const bool any =
      std::any_of(replicas.begin(), replicas.end(), [](const auto& r) { return r->in_use(); });
  return any ? "" : problem;
}

// One that comes while another is under way has its mode from then on, and ends with it.
void InferenceCore::Impl::begin_sleep(SleepMode mode, SleepHandler on_end) {
  if (const std::string why = why_not_sleep(); !why.empty()) return on_end(why);
  tell_all(sleeping.wakers, "the server was put to sleep again");
  sleeping.sleepers.push_back(std::move(on_end));
  sleeping.mode = mode;
  if (sleeping.phase == SleepPhase::kAsleep) {
    if (mode == SleepMode::kAbort) abort_requests("the server was put to sleep");
    if (sleeping.n_ending == 0) tell_all(sleeping.sleepers, "");
    return settle();
  }
  if (sleeping.phase != SleepPhase::kSettling) {
    set_phase(SleepPhase::kSettling);
    sleeping.deadline = now() + std::chrono::milliseconds(options.sleep_timeout_ms);
    publish();
  }
  watch_settling();
}

void InferenceCore::Impl::watch_settling() {
  if (sleeping.phase != SleepPhase::kSettling) return;
  if (sleeping.mode != SleepMode::kWait || close_when_idle()) return fall_asleep();
  if (now() >= sleeping.deadline) {
    return stay_awake(
        fmt::format("requests still run after {:.1f} s, and the server stays awake: try again "
                    "later, use the mode abort or keep, or raise sleep_ms",
                    options.sleep_timeout_ms / 1000.0));
  }
  sleep_timer.expires_after(kSettlingPoll);
  sleep_timer.async_wait([this](const boost::system::error_code& error) {
    if (!error) watch_settling();
  });
}

// Whether nothing is left that began before; then nothing comes any more. What may still submit
// something holds the weights; this object and the gate do, too.
bool InferenceCore::Impl::close_when_idle() {
  const std::lock_guard lock(gate.mutex);
  if (gate.n_live > 0 || weights.use_count() > 2 || old_weights) return false;
  gate.status.sleep = SleepPhase::kAsleep;
  return true;
}

void InferenceCore::Impl::fall_asleep() {
  set_phase(SleepPhase::kAsleep);
  if (sleeping.mode == SleepMode::kKeep) {
    const std::lock_guard lock(gate.mutex);
    gate.keeps_requests = true;
  } else {
    abort_requests("the server was put to sleep");
  }
  // All of them first: nothing moves from one to another.
  sleeping.n_ending = 1;  // this
  for (const std::unique_ptr<Replica>& replica : replicas) {
    replica->times.lost(now());
    if (replica->scheduler.serving()) replica->scheduler.group_lost(/*wanted=*/true);
    sleeping.n_ending += replica->in_use() ? 1 : 0;
  }
  for (const std::unique_ptr<Replica>& replica : replicas) {
    if (replica->in_use()) replica->group->stop([this] { group_asleep(); });
  }
  settle();
  group_asleep();
}

void InferenceCore::Impl::group_asleep() {
  if (--sleeping.n_ending > 0) return;
  if (listener.on_sleep) listener.on_sleep(SleepPhase::kAsleep);
  tell_all(sleeping.sleepers, "");
  if (!sleeping.wakers.empty()) start_waking();
}

void InferenceCore::Impl::stay_awake(const std::string& why) {
  set_phase(SleepPhase::kAwake);
  settle();
  tell_all(sleeping.sleepers, why);
}

void InferenceCore::Impl::abort_requests(const std::string& why) {
  {
    const std::lock_guard lock(gate.mutex);
    gate.keeps_requests = false;
  }
  for (const auto& [id, record] : records) {
    if (record->replica != nullptr) record->replica->scheduler.cancel(id);
    abort(id, why);
  }
}

void InferenceCore::Impl::abort(RequestId id, const std::string& why) {
  GenerateEvent event;
  event.finish = FinishReason::kCancelled;
  event.error = why;
  events.push_back({id, std::move(event)});
}

// For those that entered before it was, too.
bool InferenceCore::Impl::is_closed() const {
  const std::lock_guard lock(gate.mutex);
  return gate.status.sleep == SleepPhase::kAsleep && !gate.keeps_requests;
}

void InferenceCore::Impl::begin_wake(SleepHandler on_end) {
  if (!no_changes.empty()) return on_end(no_changes);
  switch (sleeping.phase) {
    case SleepPhase::kAwake: return on_end("");
    case SleepPhase::kSettling: stay_awake("the server was woken up meanwhile"); return on_end("");
    case SleepPhase::kAsleep:
    case SleepPhase::kWaking: break;
  }
  sleeping.wakers.push_back(std::move(on_end));
  // While ranks are still ending, the last of them begins it.
  if (sleeping.phase == SleepPhase::kAsleep && sleeping.n_ending == 0) start_waking();
}

void InferenceCore::Impl::start_waking() {
  problem = "the server wakes up: its ranks are being started";
  set_phase(SleepPhase::kWaking);
  {
    const std::lock_guard lock(gate.mutex);
    gate.keeps_requests = false;
  }
  for (const std::unique_ptr<Replica>& replica : replicas) {
    if (replica->in_use()) replica->group->start();
  }
  settle();
  watch_waking();
}

// The groups' deadlines end this one way or the other.
void InferenceCore::Impl::watch_waking() {
  if (sleeping.phase != SleepPhase::kWaking) return;
  bool any = false;
  for (const std::unique_ptr<Replica>& replica : replicas) {
    if (!replica->in_use()) continue;
    if (!replica->scheduler.serving()) return;
    any = true;
  }
  set_phase(SleepPhase::kAwake);
  publish();
  if (any && listener.on_sleep) listener.on_sleep(SleepPhase::kAwake);
  tell_all(sleeping.wakers, any ? "" : problem);
}

}  // namespace trireme
