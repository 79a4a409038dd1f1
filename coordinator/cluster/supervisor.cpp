#include "coordinator/cluster/supervisor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>

#include "kernels/check.h"

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;

}  // namespace

Supervisor::Supervisor(const LaunchSpec& spec)
    : spec_(spec),
      regrouping_(spec),
      ranks_(static_cast<size_t>(spec.job.layout.n_ranks())),
      weights_(spec.job.weights) {}

SupervisorAction Supervisor::action(Kind kind) const {
  return {.kind = kind,
          .epoch = epoch_,
          .rank = 0,
          .kv_blocks = 0,
          .keep_kv = false,
          .cause = {},
          .text = {},
          .order = {}};
}

bool Supervisor::is_live(uint64_t epoch) const {
  return epoch == epoch_ &&
         (state_ == State::kLaunching || state_ == State::kLoading || state_ == State::kServing);
}

SupervisorActions Supervisor::start(int64_t now_ms) {
  TRIREME_CHECK(state_ == State::kStopped);
  return launch(now_ms);
}

SupervisorActions Supervisor::launch(int64_t now_ms) {
  ++epoch_;
  state_ = State::kLaunching;
  regrouping_.on_launch(now_ms);
  deadline_ms_ = now_ms + launch_limit_ms();
  launched_at_ms_ = now_ms;
  last_timer_ms_ = now_ms;
  n_plans_in_flight_ = 0;
  kill_sent_ = false;
  loss_reported_ = false;
  hopeless_ = false;
  late_ = false;
  launched_weights_ = weights_;
  ranks_.assign(static_cast<size_t>(formation().choice.layout.n_ranks()), Rank{});
  for (size_t r = 0; r < ranks_.size(); ++r) ranks_[r].info.world_rank = static_cast<int>(r);
  return {action(Kind::kLaunch)};
}

SupervisorActions Supervisor::on_hello(int64_t now_ms, const RankHello& hello,
                                       HelloAnswer& answer) {
  const auto refuse = [&answer](std::string reason) {
    answer = {.verdict = HelloVerdict::kRefused, .reason = std::move(reason)};
    return SupervisorActions{};
  };
  const int n_ranks = static_cast<int>(ranks_.size());
  // Ranks that nobody here launched cannot know the epoch and say 0.
  const bool any_epoch = spec_.launcher == LauncherKind::kExternal && hello.epoch == 0;
  if (hello.world_size != n_ranks) {
    const Layout& layout = formation().choice.layout;
    return refuse(fmt::format("it is one of {} ranks, but TP {} x PP {} needs {}: start that many",
                              hello.world_size, layout.tp, layout.pp, n_ranks));
  }
  if (!any_epoch && hello.epoch != epoch_) {
    return refuse(fmt::format("its launch {} is not the present launch {}", hello.epoch, epoch_));
  }
  if (!is_live(epoch_)) {
    answer = {.verdict = HelloVerdict::kNotNow, .reason = {}};
    return {};
  }
  Rank& rank = ranks_[static_cast<size_t>(hello.world_rank)];
  if (rank.connected) {
    return refuse(fmt::format("rank {} is already connected", hello.world_rank));
  }
  answer.verdict = HelloVerdict::kAccepted;
  rank.connected = true;
  rank.info.host = hello.host;
  rank.info.pid = hello.pid;
  forgive_silence(now_ms, rank);
  SupervisorAction job = action(Kind::kSendJob);
  job.rank = hello.world_rank;
  if (n_connected() == n_ranks) {
    state_ = State::kLoading;
    last_launch_took_ms_ = now_ms - launched_at_ms_;
    deadline_ms_ = now_ms + spec_.deadlines.load_ms;
  }
  return {job};
}

void Supervisor::on_heard(int64_t now_ms, uint64_t epoch, int rank) {
  if (!is_live(epoch)) return;
  ranks_[static_cast<size_t>(rank)].heard.heard(now_ms);
  ranks_[static_cast<size_t>(rank)].connection.heard(now_ms);
}

SupervisorActions Supervisor::on_state(int64_t now_ms, uint64_t epoch, int rank,
                                       const RankState& state) {
  if (!is_live(epoch)) return {};
  on_heard(now_ms, epoch, rank);
  return take_state(now_ms, ranks_[static_cast<size_t>(rank)], state);
}

SupervisorActions Supervisor::take_state(int64_t now_ms, Rank& r, const RankState& state) {
  const RankState& last = r.info.last_state;
  // Of two ways here one may be slower.
  const bool outdated =
      state.tick < last.tick || state.busy_us < last.busy_us || state.comm_us < last.comm_us;
  if (outdated) return {};
  const bool ticked = state.tick != last.tick;
  const bool loaded =
      state.loaded_bytes != last.loaded_bytes || state.total_bytes != last.total_bytes;
  if (ticked || state.activity != last.activity) r.same_since_ms = now_ms;
  if (ticked) last_progress_ms_ = now_ms;
  if ((ticked || loaded) && state_ == State::kLoading) {
    deadline_ms_ = now_ms + spec_.deadlines.load_ms;
  }
  r.last_state_ms = now_ms;
  r.info.last_state = state;
  if (loaded && (state_ != State::kServing || preparing_)) return {action(Kind::kReportLoading)};
  return {};
}

SupervisorActions Supervisor::on_ready(int64_t now_ms, uint64_t epoch, int rank,
                                       const RankReady& ready) {
  if (!is_live(epoch) || state_ == State::kServing) return {};
  Rank& r = ranks_[static_cast<size_t>(rank)];
  r.ready = true;
  r.kv_blocks = ready.kv_blocks;
  r.kv_kept = ready.kv_kept;
  r.numerics_id = ready.numerics_id;
  r.info.device = ready.device;
  r.info.weight_bytes = ready.weight_bytes;
  r.info.kv_bytes = ready.kv_bytes;
  r.info.workspace_bytes = ready.workspace_bytes;
  on_heard(now_ms, epoch, rank);
  if (state_ == State::kLoading) deadline_ms_ = now_ms + spec_.deadlines.load_ms;
  for (const Rank& each : ranks_) {
    if (!each.ready) return {};
  }
  return all_ready(now_ms);
}

SupervisorActions Supervisor::all_ready(int64_t now_ms) {
  const GroupCapacity all = capacity();
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (ranks_[r].numerics_id != ranks_[0].numerics_id) {
      return lose(
          now_ms, "launch",
          fmt::format("{} computes as {}, rank 0 as {}: give the ranks of a group machines "
                      "with one instruction set and one build",
                      rank_name(static_cast<int>(r)), ranks_[r].numerics_id, ranks_[0].numerics_id),
          Ending::kAtOnce);
    }
    if (ranks_[r].kv_blocks < 1) {
      return lose(now_ms, "launch",
                  fmt::format("{} has no memory for a KV cache: free some, or lower the context "
                              "length or the number of sequences",
                              rank_name(static_cast<int>(r))),
                  Ending::kAtOnce);
    }
  }
  state_ = State::kServing;
  ever_served_ = true;
  n_losses_in_row_ = 0;
  n_late_launches_ = 0;
  last_progress_ms_ = now_ms;
  regrouping_.on_serving(now_ms);
  SupervisorAction start = action(Kind::kSendStart);
  start.kv_blocks = all.kv_blocks;
  start.keep_kv = all.kv_kept;
  SupervisorActions actions = {start};
  // What was needed no more while they loaded it.
  for (const WeightsFile& file : launched_weights_) {
    if (std::find(weights_.begin(), weights_.end(), file) == weights_.end())
      actions.push_back(order(WeightsOrder::Kind::kDrop, file));
  }
  if (regrouping_.begin_knocks(now_ms)) actions.push_back(action(Kind::kKnock));
  actions.push_back(action(Kind::kReportServing));
  return actions;
}

SupervisorActions Supervisor::on_failure(int64_t now_ms, uint64_t epoch, int rank,
                                         const std::string& message) {
  if (!is_live(epoch)) return {};
  hopeless_ = state_ == State::kServing;
  return lose(now_ms, hopeless_ ? "failure" : "rank_exit",
              fmt::format("{}: {}", rank_name(rank), message), Ending::kAfterGrace);
}

SupervisorActions Supervisor::on_disconnect(int64_t now_ms, uint64_t epoch, int rank,
                                            const std::string& why) {
  if (epoch == epoch_) ranks_[static_cast<size_t>(rank)].connected = false;
  if (!is_live(epoch)) return {};
  return lose(now_ms, "socket", fmt::format("{}: {}", rank_name(rank), why), Ending::kAfterGrace);
}

SupervisorActions Supervisor::on_launch_failed(int64_t now_ms, uint64_t epoch,
                                               const std::string& why) {
  if (!is_live(epoch)) return {};
  return lose(now_ms, "launch", why, Ending::kAtOnce);
}

SupervisorActions Supervisor::on_process_exit(int64_t now_ms, uint64_t epoch,
                                              const std::string& what) {
  if (!is_live(epoch)) return {};
  return lose(now_ms, "rank_exit", what, Ending::kAfterGrace);
}

SupervisorActions Supervisor::on_all_gone(int64_t now_ms, uint64_t epoch,
                                          const std::string& output) {
  if (epoch != epoch_) return {};
  if (state_ == State::kDying) return after_death(now_ms, output);
  if (state_ == State::kDraining || state_ == State::kTerminating) {
    state_ = State::kStopped;
    return {action(Kind::kReportStopped)};
  }
  return {};
}

void Supervisor::on_plan_sent(int64_t now_ms) {
  if (n_plans_in_flight_++ == 0) last_progress_ms_ = now_ms;
}

bool Supervisor::on_result(int64_t now_ms, uint64_t epoch, int rank) {
  if (!is_live(epoch) || state_ != State::kServing) return false;
  const Layout& layout = formation().choice.layout;
  // The other ranks answer only with traces, which end no plan.
  if (rank != layout.world_rank(layout.pp - 1, 0)) return true;
  if (n_plans_in_flight_ == 0) return false;
  --n_plans_in_flight_;
  last_progress_ms_ = now_ms;
  return true;
}

// A group that was serving is reported lost at once, so that its requests can go elsewhere. One
// that was not is reported when its processes are gone, because only then is all of their output
// here.
SupervisorActions Supervisor::lose(int64_t now_ms, const std::string& cause,
                                   const std::string& text, Ending ending) {
  TRIREME_CHECK(is_live(epoch_));
  SupervisorActions actions;
  const bool served = state_ == State::kServing;
  loss_cause_ = served ? cause : "launch";
  loss_text_ = text;
  losses_ms_.push_back(now_ms);
  ++n_losses_in_row_;
  n_plans_in_flight_ = 0;
  preparing_.reset();
  wait_reported_ = false;
  state_ = State::kDying;
  if (served) {
    regrouping_.on_lost(now_ms, cause == "heartbeat");
    hung_ = cause == "stalled";
    loss_reported_ = true;
    SupervisorAction lost = action(Kind::kReportLost);
    lost.cause = loss_cause_;
    lost.text = loss_text_;
    actions.push_back(std::move(lost));
  }
  if (!served && ending == Ending::kAfterGrace) {
    deadline_ms_ = now_ms + kLaunchGraceMs;
  } else {
    kill_sent_ = true;
    deadline_ms_ = now_ms + kKillTimeoutMs;
    actions.insert(actions.begin(), action(Kind::kKill));
  }
  if (regrouping_.begin_knocks(now_ms)) actions.push_back(action(Kind::kKnock));
  return actions;
}

SupervisorActions Supervisor::after_death(int64_t now_ms, const std::string& output) {
  SupervisorActions actions;
  // Closes the connections too when the processes ended within the grace.
  if (!kill_sent_) actions.push_back(action(Kind::kKill));
  if (!hopeless_ && !output.empty() && loss_text_.find(output) == std::string::npos) {
    loss_text_ += "; it said: " + output;
  }
  while (!losses_ms_.empty() && losses_ms_.front() <= now_ms - spec_.deadlines.crash_window_ms) {
    losses_ms_.pop_front();
  }
  // Neither a launch that may only have been slow is a crash more, nor one that is tried again in
  // another formation: those are few.
  if (late_) {
    ++n_late_launches_;
    forget_loss();
  } else if (!loss_reported_ && ever_served_ && regrouping_.on_launch_failed()) {
    forget_loss();
  }
  if (!loss_reported_ && ever_served_) {
    SupervisorAction lost = action(Kind::kReportLost);
    lost.cause = loss_cause_;
    lost.text = loss_text_;
    actions.push_back(std::move(lost));
  }
  const int n_losses = static_cast<int>(losses_ms_.size());
  if (!ever_served_ || hopeless_ || n_losses >= spec_.deadlines.max_crashes) {
    state_ = State::kBroken;
    SupervisorAction broken = action(Kind::kReportBroken);
    broken.text = ever_served_ && !hopeless_
                      ? fmt::format(
                            "{} crashes within {} s, no further tries; mend the "
                            "cause and start again. The last: {}",
                            n_losses, spec_.deadlines.crash_window_ms / 1000, loss_text_)
                      : loss_text_;
    actions.push_back(std::move(broken));
    return actions;
  }
  const int doublings = std::clamp(n_losses_in_row_ - 1, 0, 20);
  const int64_t pause = std::min<int64_t>(spec_.deadlines.backoff_max_ms,
                                          int64_t{spec_.deadlines.backoff_initial_ms} << doublings);
  state_ = State::kBackoff;
  deadline_ms_ = now_ms + pause;
  return actions;
}

// It does not count as a crash.
void Supervisor::forget_loss() {
  if (!losses_ms_.empty()) losses_ms_.pop_back();
  --n_losses_in_row_;
}

SupervisorActions Supervisor::stop(int64_t now_ms) {
  switch (state_) {
    case State::kDraining:
    case State::kTerminating: return {};
    case State::kStopped:
    case State::kBackoff:
    case State::kBroken: state_ = State::kStopped; return {action(Kind::kReportStopped)};
    case State::kDying:
      state_ = State::kTerminating;
      if (kill_sent_) return {};
      kill_sent_ = true;
      deadline_ms_ = now_ms + kKillTimeoutMs;
      return {action(Kind::kKill)};
    case State::kLaunching:
      state_ = State::kTerminating;
      deadline_ms_ = now_ms + kTerminateMs;
      return {action(Kind::kSendDrain), action(Kind::kTerminate)};
    case State::kLoading:
    case State::kServing:
      state_ = State::kDraining;
      deadline_ms_ = now_ms + spec_.deadlines.stop_ms;
      return {action(Kind::kSendDrain)};
  }
  return {};
}

GroupStatus Supervisor::status() const {
  switch (state_) {
    case State::kLaunching: return GroupStatus::kLaunching;
    case State::kLoading: return GroupStatus::kLoading;
    case State::kServing: return GroupStatus::kServing;
    case State::kDying:
    case State::kBackoff: return GroupStatus::kBackoff;
    case State::kBroken: return GroupStatus::kBroken;
    case State::kStopped:
    case State::kDraining:
    case State::kTerminating: return GroupStatus::kStopped;
  }
  return GroupStatus::kStopped;
}

int Supervisor::n_connected() const {
  return static_cast<int>(
      std::count_if(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.connected; }));
}

GroupCapacity Supervisor::capacity() const {
  GroupCapacity capacity{.layout = formation().choice.layout,
                         .kv_blocks = ranks_[0].kv_blocks,
                         .numerics_id = ranks_[0].numerics_id,
                         .ranks = ranks()};
  for (const Rank& rank : ranks_) capacity.kv_blocks = std::min(capacity.kv_blocks, rank.kv_blocks);
  // Ranks that hung were killed from here, and their memory does not show that they were at fault.
  capacity.kv_kept = !hung_ && std::all_of(ranks_.begin(), ranks_.end(), [&](const Rank& rank) {
    return rank.kv_kept == capacity.kv_blocks;
  });
  return capacity;
}

std::vector<RankInfo> Supervisor::ranks() const {
  std::vector<RankInfo> infos;
  for (const Rank& rank : ranks_) infos.push_back(rank.info);
  return infos;
}

void Supervisor::loaded(uint64_t& loaded_bytes, uint64_t& total_bytes) const {
  loaded_bytes = 0;
  total_bytes = 0;
  for (const Rank& rank : ranks_) {
    loaded_bytes += rank.info.last_state.loaded_bytes;
    total_bytes += rank.info.last_state.total_bytes;
  }
}

std::string Supervisor::rank_name(int rank) const {
  const RankInfo& info = ranks_[static_cast<size_t>(rank)].info;
  if (info.host.empty()) return fmt::format("rank {}", rank);
  return fmt::format("rank {} (host {}, pid {})", rank, info.host, info.pid);
}

std::string Supervisor::name_ranks(bool (*is_one)(const Rank&)) const {
  constexpr size_t kMostNamed = 8;
  std::vector<int> named;
  size_t n = 0;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (is_one(ranks_[r]) && ++n <= kMostNamed) named.push_back(static_cast<int>(r));
  }
  return fmt::format("{} of {} ranks ({}{})", n, ranks_.size(), fmt::join(named, ", "),
                     n > kMostNamed ? ", ..." : "");
}

}  // namespace trireme
