#include "coordinator/cluster/process_group.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <boost/asio/post.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <utility>
#include <variant>

#include "comm/control/build_id.h"
#include "comm/rank_place.h"
#include "coordinator/cluster/launchers.h"
#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;

constexpr std::chrono::milliseconds kTimerPeriod{20};
constexpr int64_t kLookPeriodMs = 100;

}  // namespace

int64_t ProcessGroup::now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

ProcessGroup::ProcessGroup(boost::asio::io_context& io, LaunchSpec spec, Group::Events events,
                           const GroupState* taken)
    : io_(io),
      spec_(std::move(spec)),
      launched_(spec_),
      events_(std::move(events)),
      supervisor_(spec_),
      timer_(io) {
  if (taken == nullptr) return;
  if (taken->serving && taken->job != job_shape()) {
    throw EnvironmentError(
        "the ranks that run have another layout or other limits than these options and this "
        "model give");
  }
  taken_ = *taken;
}

ProcessGroup::~ProcessGroup() { *alive_ = false; }

void ProcessGroup::start() {
  arm_timer();
  if (taken_) {
    const GroupState taken = *std::exchange(taken_, std::nullopt);
    if (taken.serving) return resume(taken);
    supervisor_.start_after(taken.epoch);
  }
  perform(supervisor_.start(now_ms()));
}

std::string ProcessGroup::restart_problem() const {
  if (spec_.launcher != LauncherKind::kExternal) return "";
  return "its ranks were started by somebody else, and nobody here could start them again: use "
         "--launcher local, mpirun or srun";
}

void ProcessGroup::stop(std::function<void()> on_stopped) {
  on_stopped_.push_back(std::move(on_stopped));
  perform(supervisor_.stop(now_ms()));
}

void ProcessGroup::send(StepPlan&& plan) {
  // The group may have been lost a moment ago, with on_lost still to come: the plan is void then.
  if (supervisor_.status() != GroupStatus::kServing) return;
  plan.epoch = supervisor_.epoch();
  const int64_t now = now_ms();
  supervisor_.on_plan_sent(now);
  send_to_all(plan);
  last_heard_from_ms_ = now;
}

void ProcessGroup::send_mask(const TokenMask& mask) {
  if (supervisor_.status() != GroupStatus::kServing || mask.epoch != supervisor_.epoch()) return;
  const Layout& layout = launched_.job.layout;
  const int sampling_rank = layout.world_rank(layout.pp - 1, 0);
  for (const auto& [id, peer] : peers_) {
    if (peer.rank != sampling_rank || peer.epoch != mask.epoch) continue;
    server_->send(id, std::make_shared<const std::string>(encode_frame(mask)));
  }
}

// Orders go out at once, not behind other actions: plans follow them.
void ProcessGroup::prepare(const WeightsFile& file) {
  for (const SupervisorAction& each : supervisor_.prepare(now_ms(), file)) perform_one(each);
}

void ProcessGroup::commit(const WeightsFile& file) {
  for (const SupervisorAction& each : supervisor_.commit(file)) perform_one(each);
}

void ProcessGroup::drop(uint64_t generation) {
  for (const SupervisorAction& each : supervisor_.drop(generation)) perform_one(each);
}

template <typename Frame>
void ProcessGroup::send_to_all(const Frame& frame) {
  const auto bytes = std::make_shared<const std::string>(encode_frame(frame));
  for (const auto& [id, peer] : peers_) server_->send(id, bytes);
}

void ProcessGroup::perform(SupervisorActions&& actions) {
  pending_.insert(pending_.end(), std::make_move_iterator(actions.begin()),
                  std::make_move_iterator(actions.end()));
  if (performing_) return;
  performing_ = true;
  while (!pending_.empty()) {
    const SupervisorAction action = std::move(pending_.front());
    pending_.pop_front();
    perform_one(action);
  }
  performing_ = false;
}

void ProcessGroup::perform_one(const SupervisorAction& action) {
  switch (action.kind) {
    case Kind::kLaunch: return launch(action.epoch);
    case Kind::kAskHosts:
      probe_ =
          std::make_unique<HostProbe>(io_, spec_, n_probes_++, now_ms(), supervisor_.patience_ms());
      return;
    case Kind::kKnock: return knock();
    case Kind::kKill: return kill(action.epoch);
    case Kind::kTerminate:
      if (processes_) processes_->signal(SIGTERM);
      return;
    case Kind::kSendJob:
      for (const auto& [id, peer] : peers_) {
        if (peer.rank != action.rank || peer.epoch != action.epoch) continue;
        server_->send(id, std::make_shared<const std::string>(encode_frame(job_of(peer.rank))));
      }
      return;
    case Kind::kSendStart:
      return send_to_all(GroupStart{.kv_blocks = action.kv_blocks, .keep_kv = action.keep_kv});
    case Kind::kSendDrain: return send_to_all(ControlDrain{});
    case Kind::kSendWeights: return send_to_all(action.order);
    case Kind::kReportLoading: return report_loading();
    case Kind::kReportServing:
      if (events_.on_serving) events_.on_serving(supervisor_.capacity());
      return;
    case Kind::kReportPrepared:
      if (events_.on_prepared) events_.on_prepared(action.order.file.generation, action.text);
      return;
    case Kind::kReportLost:
      if (events_.on_lost) events_.on_lost(action.cause, with_output(action.text));
      return;
    case Kind::kReportWaiting:
      std::fputs(fmt::format("replica {} {}\n", spec_.replica, action.text).c_str(), stderr);
      return;
    case Kind::kReportBroken:
      kv_memory_.clear();
      probe_.reset();
      knock_.reset();
      if (events_.on_broken) events_.on_broken(action.text);
      return;
    case Kind::kReportStopped: {
      kv_memory_.clear();
      processes_.reset();
      probe_.reset();
      knock_.reset();
      peers_.clear();
      heartbeats_.reset();
      server_.reset();
      // Posted, so that it may destroy this object.
      for (auto& on_stopped : std::exchange(on_stopped_, {})) {
        boost::asio::post(io_, std::move(on_stopped));
      }
      return;
    }
  }
}

// The ranks' KV memory is held here, so that it outlives them. Ranks that others start have none:
// nobody here knows whether the last ones, which would still write to it, have ended.
JobSpec ProcessGroup::job_of(int rank) {
  JobSpec job = launched_.job;
  job.weights = supervisor_.launched_weights();
  if (spec_.launcher == LauncherKind::kExternal) return job;
  kv_memory_.resize(static_cast<size_t>(job.layout.n_ranks()));
  UniqueFd& fd = kv_memory_[static_cast<size_t>(rank)];
  if (!fd) fd = UniqueFd(memfd_create("trireme-kv", MFD_CLOEXEC));
  if (fd) {
    job.kv_memory = memory_address(fd.get());
    job.kv_host = this_host();
  }
  return job;
}

void ProcessGroup::launch(uint64_t epoch) {
  // Whatever could not be killed may still write to its memory; and ranks that run elsewhere for a
  // while leave theirs behind.
  LaunchSpec next = in_formation(spec_, supervisor_.formation());
  const bool moved = next.job.layout != launched_.job.layout || next.hosts != launched_.hosts;
  if (processes_ || moved) kv_memory_.clear();
  processes_.reset();
  knock_.reset();
  launched_ = std::move(next);
  try {
    const std::string problem = launch_spec_problem(launched_);
    if (!problem.empty()) throw EnvironmentError(problem);
    if (!server_) open_server(-1);
    open_heartbeats(random_salt());
    processes_ = std::make_unique<EpochProcesses>(io_, launched_, epoch, on_exit(epoch));
    const Result<size_t> started = processes_->launch(server_->port());
    if (!started) throw EnvironmentError(started.error().message);
    if (spec_.launcher == LauncherKind::kExternal && !spec_.ranks_are_coming) {
      // Not fmt::print, which throws when nobody reads standard error any more.
      std::fputs(
          fmt::format("trireme: {}\n", external_instructions(spec_, server_->port())).c_str(),
          stderr);
    }
  } catch (const EnvironmentError& error) {
    perform(supervisor_.on_launch_failed(now_ms(), epoch, error.what()));
  }
}

// On its own port, or on a socket that listens already.
void ProcessGroup::open_server(int listener) {
  const bool local = spec_.launcher == LauncherKind::kLocal;
  server_ = std::make_unique<ControlServer>(
      io_,
      ControlServer::Options{
          .address = local ? "127.0.0.1" : spec_.control_address,
          .port = spec_.control_port,
          .secret = spec_.secret,
          .build = std::string(build_id()),
          .tls = spec_.control_tls ? TlsContext::server_by_secret(spec_.secret) : nullptr,
          .max_strangers = 64 + static_cast<size_t>(spec_.job.layout.n_ranks()),
          .listener = listener},
      ControlServer::Handlers{
          .on_hello = [this](ConnectionId id,
                             const RankHello& hello) { return on_hello(id, hello); },
          .on_bytes = [this](ConnectionId id) { on_bytes(id); },
          .on_frame = [this](ConnectionId id,
                             ControlFrame&& frame) { on_frame(id, std::move(frame)); },
          .on_closed = [this](ConnectionId id, const std::string& why) { on_closed(id, why); }});
}

EpochProcesses::OnExit ProcessGroup::on_exit(uint64_t epoch) {
  return [this, epoch](const std::string& what) {
    perform(supervisor_.on_process_exit(now_ms(), epoch, what));
  };
}

void ProcessGroup::kill(uint64_t epoch) {
  // Closed first: a rank that cannot be killed from here ends by itself when its connection does.
  for (auto it = peers_.begin(); it != peers_.end();) {
    if (it->second.epoch != epoch) {
      ++it;
      continue;
    }
    server_->close(it->first);
    perform(supervisor_.on_disconnect(now_ms(), epoch, it->second.rank, "closed"));
    it = peers_.erase(it);
  }
  if (processes_) processes_->kill();
}

void ProcessGroup::report_loading() {
  uint64_t loaded_bytes = 0;
  uint64_t total_bytes = 0;
  supervisor_.loaded(loaded_bytes, total_bytes);
  if (events_.on_loading) events_.on_loading(loaded_bytes, total_bytes);
}

ControlServer::HelloAnswer ProcessGroup::on_hello(ConnectionId id, const RankHello& hello) {
  Supervisor::HelloAnswer answer;
  SupervisorActions actions = supervisor_.on_hello(now_ms(), hello, answer);
  switch (answer.verdict) {
    case Supervisor::HelloVerdict::kRefused:
      return {.verdict = ControlServer::HelloVerdict::kRefuse, .reason = answer.reason};
    case Supervisor::HelloVerdict::kNotNow:
      return {.verdict = ControlServer::HelloVerdict::kNotNow, .reason = {}};
    case Supervisor::HelloVerdict::kAccepted: break;
  }
  peers_[id] = {.epoch = supervisor_.epoch(), .rank = hello.world_rank, .last_heartbeat = 0};
  perform(std::move(actions));
  return {.verdict = ControlServer::HelloVerdict::kAccept, .reason = {}};
}

void ProcessGroup::on_bytes(ConnectionId id) {
  const auto found = peers_.find(id);
  if (found == peers_.end()) return;
  supervisor_.on_heard(now_ms(), found->second.epoch, found->second.rank);
}

void ProcessGroup::on_frame(ConnectionId id, ControlFrame&& frame) {
  const auto found = peers_.find(id);
  if (found == peers_.end()) return;
  const Peer peer = found->second;
  const int64_t now = now_ms();
  if (const auto* state = std::get_if<RankState>(&frame)) {
    return perform(supervisor_.on_state(now, peer.epoch, peer.rank, *state));
  }
  if (auto* result = std::get_if<StepResult>(&frame)) return on_result(peer, std::move(*result));
  if (const auto* ready = std::get_if<RankReady>(&frame)) {
    return perform(supervisor_.on_ready(now, peer.epoch, peer.rank, *ready));
  }
  if (const auto* prepared = std::get_if<WeightsPrepared>(&frame)) {
    return perform(supervisor_.on_prepared(now, peer.epoch, peer.rank, *prepared));
  }
  if (const auto* failure = std::get_if<ControlFailure>(&frame)) {
    return perform(supervisor_.on_failure(now, peer.epoch, peer.rank, failure->message));
  }
  perform(supervisor_.on_disconnect(now, peer.epoch, peer.rank,
                                    "it sent a frame that only the coordinator sends"));
}

void ProcessGroup::on_result(const Peer& peer, StepResult&& result) {
  if (result.epoch != peer.epoch || result.world_rank != peer.rank) return;
  if (!supervisor_.on_result(now_ms(), peer.epoch, peer.rank)) return;
  if (events_.on_result) events_.on_result(std::move(result));
}

void ProcessGroup::on_closed(ConnectionId id, const std::string& why) {
  const auto found = peers_.find(id);
  if (found == peers_.end()) return;
  const Peer peer = found->second;
  peers_.erase(found);
  perform(supervisor_.on_disconnect(now_ms(), peer.epoch, peer.rank, why));
}

void ProcessGroup::arm_timer() {
  timer_.expires_after(kTimerPeriod);
  timer_.async_wait([this, alive = alive_](const boost::system::error_code& error) {
    if (!*alive || error) return;
    on_timer();
  });
}

void ProcessGroup::on_timer() {
  const int64_t now = now_ms();
  if (holding_) return arm_timer();
  check_gone(now);
  look_after_launch(now);
  look_after_probe(now);
  ping(now);
  perform(supervisor_.on_timer(now));
  if (!supervisor_.is_at_rest()) arm_timer();
}

void ProcessGroup::ping(int64_t now) {
  if (now - last_heard_from_ms_ < spec_.job.heartbeat_ms) return;
  last_heard_from_ms_ = now;
  if (!peers_.empty()) send_to_all(ControlPing{});
}

// Once a rank has dialled in its connection tells of its end; before, only its launcher should.
void ProcessGroup::look_after_launch(int64_t now) {
  const bool launching = supervisor_.status() == GroupStatus::kLaunching;
  if (!launching || !processes_ || now - last_look_ms_ < kLookPeriodMs) return;
  last_look_ms_ = now;
  if (!processes_->has_lost_rank(now)) return;
  perform(supervisor_.on_launch_failed(
      now, supervisor_.epoch(), "a rank ended before it dialled in, and its launcher hangs"));
}

void ProcessGroup::look_after_probe(int64_t now) {
  if (!probe_ || !probe_->poll(now)) return;
  const std::vector<std::string> answered = probe_->answered();
  probe_.reset();
  perform(supervisor_.on_hosts_asked(now, answered));
}

// Whether the epoch that is ending has ended: no process here, no connection from elsewhere.
void ProcessGroup::check_gone(int64_t now) {
  if (!supervisor_.is_ending()) return;
  if (processes_ && !processes_->poll_gone()) return;
  if (spec_.launcher == LauncherKind::kExternal && !peers_.empty()) return;
  const std::string said = processes_ ? most_telling_line(processes_->output()) : "";
  processes_.reset();
  perform(supervisor_.on_all_gone(now, supervisor_.epoch(), said));
}

std::string ProcessGroup::with_output(const std::string& text) {
  const std::string line = processes_ ? most_telling_line(processes_->output()) : "";
  if (line.empty() || text.find(line) != std::string::npos) return text;
  return text + "; it said: " + line;
}

std::unique_ptr<Group> make_process_group(boost::asio::io_context& io, LaunchSpec spec,
                                          Group::Events events, const GroupState* taken) {
  return std::make_unique<ProcessGroup>(io, std::move(spec), std::move(events), taken);
}

}  // namespace trireme
