#include "comm/mpi_engine.h"

#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <climits>

#include "comm/communicator.h"
#include "kernels/result.h"

namespace trireme::detail {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr int kAbortTag = 1;
// A wait polls and yields this long; then it sleeps between polls, to leave the core to others.
constexpr microseconds kYieldTime{2000};
constexpr microseconds kSleepTime{50};
constexpr int kLooksPerRound = 16;  // looks at what is waited for to one at everything else
constexpr milliseconds kAbortSendTime{100};

double seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

int to_count(size_t size_bytes) {
  TRIREME_CHECK_MSG(size_bytes <= INT_MAX, "an MPI message is at most 2 GiB");
  return static_cast<int>(size_bytes);
}

}  // namespace

MpiEngine::MpiEngine() : mpi_(MpiLibrary::load()) {
  int provided = MPI_THREAD_SINGLE;
  const int code = mpi_.init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
  if (code != MPI_SUCCESS || provided < MPI_THREAD_SERIALIZED) {
    throw EnvironmentError(fmt::format(
        "MPI_Init_thread gave code {} and thread level {}; check that the mpirun and the libmpi of "
        "this machine are the same OpenMPI, built with threads",
        code, provided));
  }
  mpi_.comm_set_errhandler(mpi_.comm_world, mpi_.errors_return);
  mpi_.comm_rank(mpi_.comm_world, &rank_);
  mpi_.comm_size(mpi_.comm_world, &size_);
  std::array<char, MPI_MAX_PROCESSOR_NAME> name{};
  int length = 0;
  mpi_.get_processor_name(name.data(), &length);
  processor_name_.assign(name.data(), static_cast<size_t>(length));

  abort_comm_ = split(0, rank_);
  abort_recv_ = post_recv("start", &abort_notice_,
                          {abort_comm_, MPI_ANY_SOURCE, kAbortTag, sizeof abort_notice_});
  progress_thread_ = std::thread([this] { run_progress_thread(); });
}

MpiEngine::~MpiEngine() { stop_progress_thread(); }

MpiLibrary::Comm MpiEngine::split(int color, int key) {
  const std::lock_guard lock(mutex_);
  MpiLibrary::Comm comm = nullptr;
  check("MPI_Comm_split", mpi_.comm_split(mpi_.comm_world, color, key, &comm));
  check("MPI_Comm_set_errhandler", mpi_.comm_set_errhandler(comm, mpi_.errors_return));
  return comm;
}

std::vector<MpiSendBuffer*> MpiEngine::make_send_buffers(int n, size_t size_bytes) {
  const std::lock_guard lock(mutex_);
  std::vector<MpiSendBuffer*> out;
  for (int i = 0; i < n; ++i) {
    MpiSendBuffer& buffer = buffers_.emplace_back();
    buffer.data.reset(new std::byte[size_bytes]);  // not zeroed: no page is used before a send
    out.push_back(&buffer);
  }
  return out;
}

std::vector<MpiRecvBuffer*> MpiEngine::make_recv_buffers(int n, size_t size_bytes) {
  const std::lock_guard lock(mutex_);
  std::vector<MpiRecvBuffer*> out;
  for (int i = 0; i < n; ++i) {
    MpiRecvBuffer& buffer = recv_buffers_.emplace_back();
    buffer.data.reset(new std::byte[size_bytes]);
    out.push_back(&buffer);
  }
  return out;
}

MpiPending MpiEngine::post_send(const char* op, const void* data, const MpiRoute& route) {
  const std::lock_guard lock(mutex_);
  MpiPending pending{.peer = route.peer};
  check(op, mpi_.isend(data, to_count(route.size_bytes), mpi_.byte, route.peer, route.tag,
                       route.comm, &pending.request));
  return pending;
}

MpiPending MpiEngine::post_recv(const char* op, void* data, const MpiRoute& route) {
  const std::lock_guard lock(mutex_);
  MpiPending pending{.peer = route.peer, .expected_bytes = to_count(route.size_bytes)};
  check(op, mpi_.irecv(data, pending.expected_bytes, mpi_.byte, route.peer, route.tag, route.comm,
                       &pending.request));
  return pending;
}

void MpiEngine::wait(const char* op, std::span<MpiPending> pending, milliseconds deadline) {
  poll(op, deadline, [&] {
    int missing = kNobody;
    for (MpiPending& p : pending) {
      if (!p.done && !test(op, p)) missing = p.peer;
    }
    return missing;
  });
}

void MpiEngine::wait_free(const char* op, MpiSendBuffer& buffer, int peer, milliseconds deadline) {
  poll(op, deadline, [&] { return sent(op, buffer) ? kNobody : peer; });
}

void MpiEngine::start_send(const char* op, MpiSendBuffer& buffer, const MpiRoute& route) {
  TRIREME_CHECK(!buffer.busy);
  buffer.pending = post_send(op, buffer.data.get(), route);
  {
    const std::lock_guard lock(mutex_);
    buffer.busy = true;
    ++n_busy_;
    if (!sent(op, buffer)) call_progress_thread();  // a small message has left at once
  }
}

void MpiEngine::start_recv(const char* op, MpiRecvBuffer& buffer, const MpiRoute& route) {
  TRIREME_CHECK(!buffer.busy);
  buffer.pending = post_recv(op, buffer.data.get(), route);
  buffer.pending.expected_bytes = -1;
  {
    const std::lock_guard lock(mutex_);
    buffer.busy = true;
    ++n_posted_;
    call_progress_thread();
  }
}

void MpiEngine::wait_received(const char* op, MpiRecvBuffer& buffer, milliseconds deadline) {
  poll(op, deadline, [&] { return received(op, buffer) ? kNobody : buffer.pending.peer; });
}

void MpiEngine::throw_if_aborted(const char* op) const {
  if (aborted_.load(std::memory_order_acquire)) {
    throw CommError(fmt::format("{}: the group was aborted", op));
  }
}

void MpiEngine::abort() noexcept {
  aborted_.store(true, std::memory_order_release);
  { const std::lock_guard lock(mutex_); }  // the thread is either before its check or asleep
  wake_.notify_one();
}

template <typename MissingPeer>
void MpiEngine::poll(const char* op, milliseconds deadline, MissingPeer missing_peer) {
  const Clock::time_point start = Clock::now();
  for (int look = 1;; ++look) {
    int peer = kNobody;
    {
      const std::lock_guard lock(mutex_);
      if (look % kLooksPerRound == 0) progress();
      last_call_ = Clock::now();
      if (!aborted_.load(std::memory_order_acquire)) {
        peer = missing_peer();
        if (peer == kNobody) return;
      }
    }
    const Clock::duration waited = Clock::now() - start;
    if (aborted_.load(std::memory_order_acquire) || waited >= deadline) give_up(op, peer, waited);
    if (waited < kYieldTime) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(kSleepTime);
    }
  }
}

void MpiEngine::give_up(const char* op, int peer, Clock::duration waited) {
  const bool was_aborted = aborted_.exchange(true);
  {
    const std::lock_guard lock(mutex_);
    tell_others();
  }
  if (was_aborted) {
    throw CommError(
        fmt::format("{}: the group was aborted after {:.3f} s of waiting", op, seconds(waited)));
  }
  throw CommError(fmt::format("{}: nothing from rank {} for {:.3f} s; it is gone or stuck", op,
                              peer, seconds(waited)));
}

void MpiEngine::check(const char* op, int code) const {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  mpi_.error_string(code, text.data(), &length);
  throw CommError(fmt::format("{}: MPI failed: {}", op,
                              std::string_view(text.data(), static_cast<size_t>(length))));
}

bool MpiEngine::test(const char* op, MpiPending& pending, int* size_bytes) {
  int done = 0;
  MPI_Status status;
  check(op, mpi_.test(&pending.request, &done, &status));
  if (done == 0) return false;
  pending.done = true;
  int count = -1;
  if (pending.expected_bytes >= 0 || size_bytes != nullptr) {
    check(op, mpi_.get_count(&status, mpi_.byte, &count));
  }
  TRIREME_CHECK_MSG(pending.expected_bytes < 0 || count == pending.expected_bytes,
                    "sender and receiver disagree on the size");
  if (size_bytes != nullptr) *size_bytes = count;
  return true;
}

void MpiEngine::progress() {
  if (!abort_recv_.done && test("abort", abort_recv_)) {
    told_others_ = true;  // whoever gave up told everyone
    aborted_.store(true, std::memory_order_release);
  }
  for (size_t i = 0; n_busy_ > 0 && i < buffers_.size(); ++i) sent("send", buffers_[i]);
  for (size_t i = 0; n_posted_ > 0 && i < recv_buffers_.size(); ++i) {
    received("recv", recv_buffers_[i]);
  }
}

bool MpiEngine::sent(const char* op, MpiSendBuffer& buffer) {
  if (!buffer.busy) return true;
  if (!test(op, buffer.pending)) return false;
  buffer.busy = false;
  --n_busy_;
  return true;
}

bool MpiEngine::received(const char* op, MpiRecvBuffer& buffer) {
  if (!buffer.busy) return true;
  if (!test(op, buffer.pending, &buffer.size_bytes)) return false;
  buffer.busy = false;
  --n_posted_;
  return true;
}

// Tiny messages leave at once where the peer lives; where it does not, mpirun is about to end us.
void MpiEngine::tell_others() noexcept {
  if (told_others_) return;
  told_others_ = true;
  const Clock::time_point end = Clock::now() + kAbortSendTime;
  for (int peer = 0; peer < size_; ++peer) {
    MpiLibrary::Request request = nullptr;
    if (peer == rank_ || mpi_.isend(&rank_, sizeof rank_, mpi_.byte, peer, kAbortTag, abort_comm_,
                                    &request) != MPI_SUCCESS) {
      continue;
    }
    int done = 0;
    MPI_Status status;
    while (mpi_.test(&request, &done, &status) == MPI_SUCCESS && done == 0 && Clock::now() < end) {
      sched_yield();
    }
  }
}

void MpiEngine::run_progress_thread() {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto must_tell = [this] { return aborted_.load() && !told_others_; };
    thread_sleeps_for_ = Clock::duration::max();
    wake_.wait(lock, [&] { return stop_ || n_busy_ > 0 || n_posted_ > 0 || must_tell(); });
    if (stop_) return;
    if (must_tell()) {
      tell_others();
      continue;
    }
    try {
      progress();
    } catch (const CommError&) {
      aborted_.store(true, std::memory_order_release);  // the rank's own next call reports it
      return;
    }
    thread_sleeps_for_ = time_to_next_look();
    wake_.wait_for(lock, thread_sleeps_for_);
  }
}

MpiEngine::Clock::duration MpiEngine::time_to_next_look() const {
  if (n_busy_ > 0) return kSleepTime;
  return std::clamp<Clock::duration>((Clock::now() - last_call_) / kLookPart, kShortestLook,
                                     kLongestLook);
}

void MpiEngine::stop_progress_thread() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (progress_thread_.joinable()) progress_thread_.join();
}

bool MpiEngine::finalize(milliseconds deadline) {
  if (aborted_.load(std::memory_order_acquire)) return false;
  try {
    MpiPending barrier;
    {
      const std::lock_guard lock(mutex_);
      check("finalize", mpi_.ibarrier(mpi_.comm_world, &barrier.request));
    }
    poll("finalize", deadline, [&] {
      const bool all_sent = n_busy_ == 0;
      return test("finalize", barrier) && all_sent ? kNobody : 0;
    });
  } catch (const CommError&) {
    return false;
  }
  stop_progress_thread();
  const Clock::time_point end = Clock::now() + deadline;
  cancel(abort_recv_, end);
  for (MpiRecvBuffer& buffer : recv_buffers_) {
    if (buffer.busy) cancel(buffer.pending, end);
  }
  return mpi_.finalize() == MPI_SUCCESS;
}

void MpiEngine::cancel(MpiPending& receive, Clock::time_point end) {
  mpi_.cancel(&receive.request);
  int done = 0;
  MPI_Status status;
  while (done == 0 && Clock::now() < end) mpi_.test(&receive.request, &done, &status);
}

}  // namespace trireme::detail
