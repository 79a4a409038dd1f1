// The supervisor's deadlines: what passes without an event.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <limits>
#include <utility>

#include "coordinator/cluster/supervisor.h"

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;

}  // namespace

SupervisorActions Supervisor::on_timer(int64_t now_ms) {
  forgive_own_pauses(now_ms);
  switch (state_) {
    case State::kStopped:
    case State::kBroken: return {};
    case State::kBackoff:
      if (auto actions = watch_hosts(now_ms)) return std::move(*actions);
      return now_ms >= deadline_ms_ ? launch(now_ms) : SupervisorActions{};
    case State::kDying:
      // Hosts are looked at while what is left of the group ends.
      if (auto actions = watch_hosts(now_ms); actions && !actions->empty())
        return std::move(*actions);
      return watch_dying(now_ms);
    case State::kDraining:
    case State::kTerminating: return watch_stopping(now_ms);
    case State::kLaunching:
    case State::kLoading:
    case State::kServing: break;
  }
  if (auto lost = watch_heartbeats(now_ms)) return std::move(*lost);
  if (state_ != State::kServing) {
    SupervisorActions actions = watch_launch(now_ms);
    return actions.empty() ? watch_formation(now_ms) : actions;
  }
  SupervisorActions actions = watch_steps(now_ms);
  if (!actions.empty()) return actions;
  return preparing_ ? watch_preparation(now_ms) : watch_formation(now_ms);
}

SupervisorActions Supervisor::watch_formation(int64_t now_ms) {
  using Wish = Regrouping::Wish;
  Wish wish = Wish::kNone;
  if (state_ == State::kServing) {
    wish = regrouping_.watch_serving(now_ms, n_plans_in_flight_ == 0);
  } else if (state_ == State::kLaunching && regrouping_.watch_launch(now_ms)) {
    wish = Wish::kAskHosts;
  }
  switch (wish) {
    case Wish::kNone: return {};
    case Wish::kAskHosts: return {action(Kind::kAskHosts)};
    case Wish::kMove: return regroup(now_ms);
  }
  return {};
}

// Nothing when the next launch need not wait for hosts.
std::optional<SupervisorActions> Supervisor::watch_hosts(int64_t now_ms) {
  using Next = Regrouping::Next;
  switch (regrouping_.watch_loss(now_ms)) {
    case Next::kLaunch: return std::nullopt;
    case Next::kWait: return SupervisorActions{};
    case Next::kAskHosts: return SupervisorActions{action(Kind::kAskHosts)};
    case Next::kWaitForHosts: break;
  }
  if (std::exchange(wait_reported_, true)) return SupervisorActions{};
  SupervisorAction waiting = action(Kind::kReportWaiting);
  waiting.text =
      fmt::format("waits until the network reaches {}", fmt::join(regrouping_.unreached(), ", "));
  return SupervisorActions{std::move(waiting)};
}

// While clients wait. A host that is well takes no longer to answer than a launch over it takes to
// come up.
int64_t Supervisor::patience_ms() const {
  return state_ == State::kServing ? spec_.deadlines.probe_ms
                                   : std::max(kLeastPatienceMs, last_launch_took_ms_);
}

SupervisorActions Supervisor::on_hosts_asked(int64_t now_ms,
                                             const std::vector<std::string>& hosts) {
  if (state_ == State::kServing) {
    return regrouping_.on_answers_serving(now_ms, hosts) ? regroup(now_ms) : SupervisorActions{};
  }
  const std::vector<std::string> missing = regrouping_.on_answers(hosts);
  if (missing.empty() || state_ != State::kLaunching) return {};
  return lose(now_ms, "launch", fmt::format("no answer from {}", fmt::join(missing, ", ")),
              Ending::kAtOnce);
}

// Gives up a group that serves, for a larger one.
SupervisorActions Supervisor::regroup(int64_t now_ms) {
  SupervisorActions actions =
      lose(now_ms, kRegroupCause, "a larger layout can be had again", Ending::kAtOnce);
  forget_loss();
  return actions;
}

// While this process itself did not run, nobody could be heard. On a machine with too much to do
// that is many short pauses, and the ranks here have as many of their own.
void Supervisor::forgive_own_pauses(int64_t now_ms) {
  const int64_t begin = std::exchange(last_timer_ms_, now_ms);
  for (Rank& rank : ranks_) {
    for (Hearing* hearing : {&rank.heard, &rank.connection, &rank.hears_us})
      hearing->forgive_pause(begin, now_ms);
  }
}

void Supervisor::Hearing::forgive_pause(int64_t begin_ms, int64_t end_ms) {
  const int64_t silent_ms = end_ms - std::max(begin_ms, last_ms);
  forgiven_ms += std::max<int64_t>(silent_ms - kMostCountedMs, 0);
}

void Supervisor::forgive_silence(int64_t now_ms, Rank& rank) {
  for (Hearing* hearing : {&rank.heard, &rank.connection, &rank.hears_us}) hearing->heard(now_ms);
  rank.told_hears_us_ms = now_ms;
  rank.last_state_ms = now_ms;
  rank.same_since_ms = now_ms;
}

SupervisorActions Supervisor::on_datagram(int64_t now_ms, uint64_t epoch, int rank,
                                          const RankState& state, int32_t unheard_ms) {
  // Before answers reach the rank its datagrams show nothing: they may be all that gets through.
  if (!is_live(epoch) || unheard_ms < 0) return {};
  Rank& r = ranks_[static_cast<size_t>(rank)];
  r.heard.heard(now_ms);
  const int64_t heard_us_ms = now_ms - unheard_ms;
  const bool since_it_told = heard_us_ms >= r.told_hears_us_ms;
  if (since_it_told) {
    // Pauses after that are forgiven still.
    const int64_t looked_at_ms = std::max<int64_t>(last_timer_ms_ - heard_us_ms, 0);
    r.hears_us = {.last_ms = heard_us_ms,
                  .forgiven_ms = std::min(r.hears_us.forgiven_ms, looked_at_ms)};
  }
  r.told_hears_us_ms = now_ms;
  return take_state(now_ms, r, state);
}

std::optional<SupervisorActions> Supervisor::watch_heartbeats(int64_t now_ms) {
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const Rank& rank = ranks_[r];
    if (!rank.connected) continue;
    const int64_t silent_ms = rank.heard.silent_ms(now_ms);
    // As it told: until it tells again its silence counts, and not what it may not know yet.
    const int64_t deaf_ms = rank.hears_us.silent_ms(rank.told_hears_us_ms);
    const int64_t stuck_ms = rank.connection.silent_ms(now_ms);
    std::string what;
    if (silent_ms >= spec_.deadlines.heartbeat_ms) {
      what = fmt::format("nothing heard for {} ms", silent_ms);
    } else if (deaf_ms >= spec_.deadlines.heartbeat_ms) {
      what = fmt::format("it has heard nothing from here for {} ms", deaf_ms);
    } else if (stuck_ms >= spec_.deadlines.silence_ms) {
      what = fmt::format("its connection has brought nothing for {} ms", stuck_ms);
    } else {
      continue;
    }
    return lose(now_ms, "heartbeat", fmt::format("{}: {}", rank_name(static_cast<int>(r)), what),
                Ending::kAtOnce);
  }
  return std::nullopt;
}

// A launcher may lose a rank and never say so: a group that came up before is not waited for as
// long as one that never did.
int64_t Supervisor::launch_limit_ms() const {
  const bool by_launcher =
      spec_.launcher == LauncherKind::kMpirun || spec_.launcher == LauncherKind::kSrun;
  const int64_t limit_ms = regrouping_.launch_ms();
  if (!ever_served_ || !by_launcher || regrouping_.is_returning()) return limit_ms;
  const int64_t usual_ms =
      std::max<int64_t>(spec_.deadlines.join_ms, kLateFactor * last_launch_took_ms_);
  return std::min(limit_ms, usual_ms << std::min(n_late_launches_, 20));
}

SupervisorActions Supervisor::watch_launch(int64_t now_ms) {
  if (now_ms < deadline_ms_) return {};
  if (state_ == State::kLaunching) {
    const int64_t limit_ms = deadline_ms_ - launched_at_ms_;
    late_ = limit_ms < regrouping_.launch_ms();
    return lose(
        now_ms, "launch",
        fmt::format(
            "launch deadline: {} did not come up within {:.1f} s; check that the hosts run and can "
            "reach the coordinator at {}",
            name_ranks([](const Rank& r) { return !r.connected; }),
            static_cast<double>(limit_ms) / 1000.0, spec_.control_address),
        Ending::kAtOnce);
  }
  return lose(now_ms, "launch",
              fmt::format("{} made no progress loading for {:.1f} s: check the disk that holds {}",
                          name_ranks([](const Rank& r) { return !r.ready; }),
                          spec_.deadlines.load_ms / 1000.0,
                          launched_weights_.empty() ? "" : launched_weights_.back().path),
              Ending::kAtOnce);
}

// A deadlock: for stall_ms, heartbeats of every rank said that it waits for another one (or
// for a plan), at one unchanged tick. A rank that computes is never stalled, however long it takes,
// until the step watchdog finds that not even a tick came.
SupervisorActions Supervisor::watch_steps(int64_t now_ms) {
  if (n_plans_in_flight_ == 0) return {};
  int64_t from = last_progress_ms_;
  int64_t to = std::numeric_limits<int64_t>::max();
  bool stuck = true;
  int waiting = -1;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const RankActivity activity = ranks_[r].info.last_state.activity;
    if (activity == RankActivity::kWaiting && waiting < 0) waiting = static_cast<int>(r);
    stuck = stuck && (activity == RankActivity::kWaiting || activity == RankActivity::kIdle);
    from = std::max(from, ranks_[r].same_since_ms);
    to = std::min(to, ranks_[r].last_state_ms);
  }
  if (stuck && waiting >= 0 && to - from >= spec_.deadlines.stall_ms) {
    const RankState& state = ranks_[static_cast<size_t>(waiting)].info.last_state;
    return lose(now_ms, "stalled",
                fmt::format("all ranks wait for each other: {} in collective {} for {}",
                            rank_name(waiting), state.waiting_op,
                            state.waiting_peer < 0 ? std::string("anyone")
                                                   : fmt::format("rank {}", state.waiting_peer)),
                Ending::kAtOnce);
  }
  if (now_ms - last_progress_ms_ < spec_.deadlines.step_ms) return {};
  return lose(now_ms, "stalled",
              fmt::format("no progress in a step for {:.1f} s", spec_.deadlines.step_ms / 1000.0),
              Ending::kAtOnce);
}

SupervisorActions Supervisor::watch_dying(int64_t now_ms) {
  if (now_ms < deadline_ms_) return {};
  if (kill_sent_) return after_death(now_ms, "");
  kill_sent_ = true;
  deadline_ms_ = now_ms + kKillTimeoutMs;
  return {action(Kind::kKill)};
}

SupervisorActions Supervisor::watch_stopping(int64_t now_ms) {
  if (now_ms < deadline_ms_) return {};
  if (state_ == State::kDraining) {
    state_ = State::kTerminating;
    deadline_ms_ = now_ms + kTerminateMs;
    return {action(Kind::kTerminate)};
  }
  if (!kill_sent_) {
    kill_sent_ = true;
    deadline_ms_ = now_ms + kKillTimeoutMs;
    return {action(Kind::kKill)};
  }
  state_ = State::kStopped;
  return {action(Kind::kReportStopped)};
}

}  // namespace trireme
