#include "comm/control/rank_link.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <span>
#include <thread>
#include <variant>

#include "comm/control/control_codec.h"
#include "comm/control/control_stream.h"
#include "comm/control/frame_reader.h"
#include "comm/control/heartbeat_line.h"
#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kRedialPause{100};
constexpr milliseconds kGoodbye{500};  // how long the end waits for the coordinator to close

// Not exit(): other threads may be stuck in a collective, and nothing here needs unwinding.
[[noreturn]] void exit_orphaned(int world_rank, std::string_view why) {
  const std::string line = fmt::format("trireme: rank {} ends: {}\n", world_rank, why);
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) {
    // Nobody left to tell.
  }
  _exit(RankLink::kExitOrphaned);
}

using Received = ControlStream::Received;

uint64_t pack_activity(RankActivity activity, int32_t op, int32_t peer) {
  return static_cast<uint64_t>(activity) |
         (static_cast<uint64_t>(static_cast<uint32_t>(op) & 0xffffffU) << 8) |
         (static_cast<uint64_t>(static_cast<uint32_t>(peer)) << 32);
}

}  // namespace

struct RankLink::State {
  std::unique_ptr<ControlStream> stream;
  int world_rank = 0;
  std::string secret;
  JobSpec job;
  FrameReader reader{kMaxFrameBytes};

  std::atomic<uint64_t> activity{pack_activity(RankActivity::kLoading, 0, -1)};
  std::atomic<uint64_t> tick{0};
  std::atomic<uint64_t> loaded_bytes{0};
  std::atomic<uint64_t> total_bytes{0};
  std::atomic<uint64_t> busy_us{0};
  std::atomic<uint64_t> comm_us{0};
  std::atomic<uint64_t> stage_wait_us{0};
  std::atomic<Clock::time_point> last_bytes{Clock::now()};  // on the connection

  std::mutex mutex;                 // everything below
  std::condition_variable changed;  // between reader and main thread: plans, start, drain, end
  std::condition_variable ended;    // closing, for threads that plans do not concern
  std::deque<RankTask> tasks;
  std::deque<TokenMask> masks;  // of plans taken or queued
  GroupStart start;
  bool started = false;
  bool draining = false;
  bool closing = false;  // this side ends

  // The heartbeat thread's.
  std::optional<HeartbeatLine> line;  // none: no network is between it and the coordinator
  int n_in_doubt = 0;                 // heartbeats on the connection since all was confirmed

  // The reader thread's.
  milliseconds cut_off{0};  // 0: no network is between this rank and the coordinator
  bool quiet = false;       // the coordinator said that it would be
  std::thread reader_thread;
  std::thread heartbeat_thread;

  ~State();

  template <typename Frame>
  void send(const Frame& frame) {
    // A broken connection shows in the reader thread, which ends the process.
    stream->send(encode_frame(frame));
  }

  RankState snapshot() const;
  void send_heartbeat();
  void heartbeat_loop();
  void read_loop();
  void watch_network();
  milliseconds unheard(Clock::time_point now) const;
  void read_ended(std::string_view why);
  void take_frames();
  void take(ControlFrame&& frame);
  void take_task(RankTask&& task);
  void take_mask(TokenMask&& mask);
  void renew();
};

RankLink::State::~State() {
  if (!reader_thread.joinable()) return;
  {
    const std::lock_guard lock(mutex);
    closing = true;
  }
  changed.notify_all();
  ended.notify_all();
  // Half-closed and read to the end, so that what was sent last is not lost to a reset. It also
  // wakes a heartbeat that is stuck in send.
  stream->end_sending();
  heartbeat_thread.join();
  reader_thread.join();
}

RankState RankLink::State::snapshot() const {
  RankState state;
  const uint64_t packed = activity.load(std::memory_order_relaxed);
  state.activity = static_cast<RankActivity>(packed & 0xff);
  state.waiting_op = static_cast<int32_t>((packed >> 8) & 0xffffffU);
  state.waiting_peer = static_cast<int32_t>(static_cast<uint32_t>(packed >> 32));
  state.tick = tick.load(std::memory_order_relaxed);
  state.loaded_bytes = loaded_bytes.load(std::memory_order_relaxed);
  state.total_bytes = total_bytes.load(std::memory_order_relaxed);
  state.busy_us = busy_us.load(std::memory_order_relaxed);
  state.comm_us = comm_us.load(std::memory_order_relaxed);
  state.stage_wait_us = stage_wait_us.load(std::memory_order_relaxed);
  return state;
}

// On the connection, at most two while anything is unconfirmed. The first lets Linux find out early
// that something was lost, and begin its 200 ms anew; with many, it would double the time after
// each further try.
void RankLink::State::send_heartbeat() {
  constexpr int kMostInDoubt = 2;
  const RankState state = snapshot();
  if (line) line->beat(state, last_bytes.load(std::memory_order_relaxed));
  if (stream->n_unconfirmed_bytes() == 0) n_in_doubt = 0;
  if (n_in_doubt == kMostInDoubt) return;
  ++n_in_doubt;
  send(state);
}

// Where a network is between this rank and the coordinator: it can lose what is sent, or be cut.
void RankLink::State::watch_network() {
  if (!job.heartbeat_salt.empty())
    line.emplace(stream->fd(), heartbeat_key(job.heartbeat_salt, secret), world_rank);
  cut_off = milliseconds(job.cut_off_ms);
}

void RankLink::State::heartbeat_loop() {
  std::unique_lock lock(mutex);
  while (!closing) {
    lock.unlock();
    send_heartbeat();
    lock.lock();
    ended.wait_for(lock, milliseconds(job.heartbeat_ms), [this] { return closing; });
  }
}

void RankLink::State::read_loop() {
  const milliseconds silence{job.silence_ms};
  Clock::time_point closing_since = Clock::time_point::max();
  take_frames();  // what came with the job
  for (;;) {
    // Short rounds, to see `closing`; the deadline counts from what was last heard.
    const Received received = stream->receive(reader, std::min(silence, milliseconds(100)));
    if (received == Received::kBytes) {
      take_frames();
      last_bytes.store(Clock::now(), std::memory_order_relaxed);
    }
    const Clock::time_point now = Clock::now();
    {
      const std::lock_guard lock(mutex);
      if (closing) closing_since = std::min(closing_since, now);
    }
    if (received == Received::kEnd) return read_ended("the coordinator closed the connection");
    if (closing_since < now - kGoodbye) return;
    if (now - last_bytes.load(std::memory_order_relaxed) >= silence) {
      return read_ended(
          fmt::format("nothing heard from the coordinator for {} ms", silence.count()));
    }
    if (cut_off.count() > 0 && !quiet && unheard(now) >= cut_off) {
      return read_ended(fmt::format("cut off: nothing heard from the coordinator's host for {} ms",
                                    cut_off.count()));
    }
  }
}

// In any way.
milliseconds RankLink::State::unheard(Clock::time_point now) const {
  const Clock::time_point bytes = last_bytes.load(std::memory_order_relaxed);
  const Clock::time_point heard = line ? std::max(bytes, line->last_answer()) : bytes;
  return std::chrono::duration_cast<milliseconds>(now - heard);
}

// Returns only when the process is to end in its own way.
void RankLink::State::read_ended(std::string_view why) {
  std::unique_lock lock(mutex);
  if (draining) {
    ended.wait_for(lock, milliseconds(job.silence_ms), [this] { return closing; });
  }
  if (!closing) exit_orphaned(world_rank, why);
}

void RankLink::State::take_frames() {
  std::span<const char> payload;
  for (;;) {
    switch (reader.next(payload)) {
      case FrameReader::Next::kNeedMore: return;
      case FrameReader::Next::kOversize:
        exit_orphaned(world_rank, "the coordinator sent an oversize frame");
      case FrameReader::Next::kFrame: break;
    }
    Result<ControlFrame> frame = decode_frame(payload);
    if (!frame) exit_orphaned(world_rank, "bad frame: " + frame.error().message);
    take(std::move(*frame));
  }
}

void RankLink::State::take(ControlFrame&& frame) {
  if (auto* plan = std::get_if<StepPlan>(&frame)) return take_task(std::move(*plan));
  if (auto* order = std::get_if<WeightsOrder>(&frame)) return take_task(std::move(*order));
  if (auto* mask = std::get_if<TokenMask>(&frame)) return take_mask(std::move(*mask));
  if (const auto* ping = std::get_if<ControlPing>(&frame)) {
    quiet = ping->quiet_ms > 0;
    return;
  }
  if (std::holds_alternative<ControlRenew>(frame)) return renew();
  const std::lock_guard lock(mutex);
  if (const auto* told = std::get_if<GroupStart>(&frame)) {
    start = *told;
    started = true;
  } else if (std::holds_alternative<ControlDrain>(frame)) {
    draining = true;
  } else if (const auto* failure = std::get_if<ControlFailure>(&frame)) {
    exit_orphaned(world_rank, failure->message);
  } else {
    exit_orphaned(world_rank, "the coordinator sent a frame that only ranks send");
  }
  changed.notify_all();
}

void RankLink::State::renew() {
  const auto deadline = Clock::now() + milliseconds(job.silence_ms);
  if (!stream->renew(encode_frame(ControlRenew{}), secret, deadline))
    exit_orphaned(world_rank, "the coordinator asked for a new TLS session and began none");
}

// A rank that is behind its peers lets the rest wait in the socket.
void RankLink::State::take_task(RankTask&& task) {
  const size_t most = 2 * (static_cast<size_t>(job.max_plans_in_flight) + 1);
  std::unique_lock lock(mutex);
  const auto has_room = [&] { return tasks.size() < most || closing; };
  if (!changed.wait_for(lock, milliseconds(job.comm_timeout_ms), has_room)) {
    exit_orphaned(world_rank, "it does not keep up with the plans");
  }
  tasks.push_back(std::move(task));
  lock.unlock();  // whoever is woken may run at once, and would have to wait for it
  changed.notify_all();
}

void RankLink::State::take_mask(TokenMask&& mask) {
  const size_t most =
      static_cast<size_t>(job.max_slots) * (static_cast<size_t>(job.max_plans_in_flight) + 1);
  std::unique_lock lock(mutex);
  if (masks.size() >= most) exit_orphaned(world_rank, "the coordinator sent masks of no plan");
  masks.push_back(std::move(mask));
  lock.unlock();
  changed.notify_all();
}

namespace {

struct Greeting {
  std::unique_ptr<ControlStream> stream;
  JobSpec job;
};

// One try: dial, hello, job. Errors as of ControlStream::open.
Result<Greeting> greet(const HostPort& to, const RankHello& hello, FrameReader& reader,
                       Clock::time_point deadline) {
  Result<std::unique_ptr<ControlStream>> opened = ControlStream::open(to, hello.secret, deadline);
  if (!opened) return opened.error();
  std::unique_ptr<ControlStream> stream = std::move(*opened);
  if (!stream->send(encode_frame(hello))) return Error{"it hung up on the hello", ""};
  std::span<const char> payload;
  for (;;) {
    const FrameReader::Next next = reader.next(payload);
    if (next == FrameReader::Next::kOversize) return Error{"it speaks another protocol", "refused"};
    if (next == FrameReader::Next::kFrame) break;
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
    const Received received = stream->receive(reader, std::max(left, milliseconds(0)));
    if (received == Received::kTimeout) return Error{"it gives no answer to the hello", ""};
    if (received == Received::kEnd) return Error{"it hung up on the hello", ""};
  }
  Result<ControlFrame> frame = decode_frame(payload);
  if (!frame) return Error{"it speaks another protocol", "refused"};
  if (const auto* failure = std::get_if<ControlFailure>(&*frame)) {
    return Error{"it refuses this rank: " + failure->message, "refused"};
  }
  auto* job = std::get_if<JobSpec>(&*frame);
  if (job == nullptr) return Error{"it speaks another protocol", "refused"};
  return Greeting{.stream = std::move(stream), .job = std::move(*job)};
}

}  // namespace

std::unique_ptr<RankLink> RankLink::connect(const Options& options) {
  const Result<HostPort> to = parse_host_port(options.address);
  if (!to) throw EnvironmentError(to.error().message + ": give --coordinator HOST:PORT");
  const Clock::time_point deadline = Clock::now() + milliseconds(options.connect_timeout_ms);
  for (;;) {
    auto state = std::make_unique<State>();
    Result<Greeting> greeting = greet(*to, options.hello, state->reader, deadline);
    if (greeting) {
      state->stream = std::move((*greeting).stream);
      state->job = std::move((*greeting).job);
      state->world_rank = options.hello.world_rank;
      state->secret = options.hello.secret;
      auto link = std::unique_ptr<RankLink>(new RankLink(std::move(state)));
      State& s = *link->state_;
      if (!has_one_address(s.stream->fd())) s.watch_network();
      s.last_bytes = Clock::now();
      s.heartbeat_thread = std::thread([&s] { s.heartbeat_loop(); });
      s.reader_thread = std::thread([&s] { s.read_loop(); });
      return link;
    }
    const Error& error = greeting.error();
    if (error.param == "refused") {
      throw EnvironmentError(fmt::format("coordinator {}: {}", options.address, error.message));
    }
    if (Clock::now() + kRedialPause >= deadline) {
      throw EnvironmentError(fmt::format(
          "no connection to the coordinator at {} in {} ms ({}): check that it runs and that this "
          "host can reach that address",
          options.address, options.connect_timeout_ms, error.message));
    }
    std::this_thread::sleep_for(kRedialPause);
  }
}

RankLink::RankLink(std::unique_ptr<State> state) : state_(std::move(state)) {}
RankLink::~RankLink() = default;

const JobSpec& RankLink::job() const { return state_->job; }

void RankLink::set_activity(RankActivity activity, int32_t op, int32_t peer) {
  state_->activity.store(pack_activity(activity, op, peer), std::memory_order_relaxed);
}

void RankLink::tick() { state_->tick.fetch_add(1, std::memory_order_relaxed); }

void RankLink::set_loaded(uint64_t loaded_bytes, uint64_t total_bytes) {
  state_->total_bytes.store(total_bytes, std::memory_order_relaxed);
  state_->loaded_bytes.store(loaded_bytes, std::memory_order_relaxed);
}

void RankLink::add_busy_us(uint64_t us) {
  state_->busy_us.fetch_add(us, std::memory_order_relaxed);
}

void RankLink::add_comm_us(uint64_t us, bool with_stage) {
  state_->comm_us.fetch_add(us, std::memory_order_relaxed);
  if (with_stage) state_->stage_wait_us.fetch_add(us, std::memory_order_relaxed);
}

GroupStart RankLink::ready_and_wait_start(const RankReady& ready) {
  state_->send(ready);
  std::unique_lock lock(state_->mutex);
  // Bounded by the reader thread: a silent coordinator ends the process.
  state_->changed.wait(lock, [this] { return state_->started || state_->draining; });
  if (!state_->started) {
    throw EnvironmentError("the coordinator gave this group up before it started");
  }
  return state_->start;
}

void RankLink::send_failure(const std::string& message) {
  state_->send(ControlFailure{.message = message});
}

bool RankLink::next_task(RankTask& task) {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [this] { return !state_->tasks.empty() || state_->draining; });
  if (state_->tasks.empty()) return false;
  task = std::move(state_->tasks.front());
  state_->tasks.pop_front();
  lock.unlock();
  state_->changed.notify_all();
  return true;
}

TokenMask RankLink::wait_mask(uint64_t step_id, uint64_t request_id) {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  const auto find = [&] {
    return std::find_if(s.masks.begin(), s.masks.end(), [&](const TokenMask& mask) {
      return mask.step_id == step_id && mask.request_id == request_id;
    });
  };
  const bool came = s.changed.wait_for(lock, milliseconds(s.job.comm_timeout_ms),
                                       [&] { return find() != s.masks.end(); });
  if (!came) exit_orphaned(s.world_rank, "the coordinator sent no token mask for a sequence");
  const auto found = find();
  TokenMask mask = std::move(*found);
  s.masks.erase(found);
  return mask;
}

void RankLink::send_result(const StepResult& result) { state_->send(result); }

void RankLink::send_prepared(const WeightsPrepared& prepared) { state_->send(prepared); }

}  // namespace trireme
