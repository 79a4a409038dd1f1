#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "comm/mpi_library.h"

namespace trireme::detail {

// One operation of a set that is waited for together.
struct MpiPending {
  MpiLibrary::Request request = nullptr;
  int peer = 0;
  int expected_bytes = -1;  // of a receive of a known size; a shorter message is a bug
  bool done = false;
};

// A message on its way. The engine owns it: the library may read `data` until the send is complete.
struct MpiSendBuffer {
  std::unique_ptr<std::byte[]> data;  // touched only when used
  MpiPending pending;
  bool busy = false;
};

// A receive that is posted before anybody asks for it. The engine owns it until it is done.
struct MpiRecvBuffer {
  std::unique_ptr<std::byte[]> data;  // touched only when used
  MpiPending pending;
  int size_bytes = 0;  // of the message, once done
  bool busy = false;   // posted and not done
};

// Who exchanges how many bytes with this rank.
struct MpiRoute {
  MpiLibrary::Comm comm = nullptr;
  int peer = 0;
  int tag = 0;
  size_t size_bytes = 0;
};

// All calls into libmpi of one process, one at a time under one lock: by the rank's own thread
// while it is in a collective, which is the fastest for small messages, and by a small thread while
// it computes. OpenMPI moves large messages only inside calls, so that thread keeps sends and
// posted receives moving; it looks ever more rarely the longer the rank has not communicated, and
// sleeps when nothing is under way. It also carries abort() to the other ranks.
class MpiEngine {
 public:
  MpiEngine();
  ~MpiEngine();
  MpiEngine(const MpiEngine&) = delete;
  MpiEngine& operator=(const MpiEngine&) = delete;

  const MpiLibrary& mpi() const { return mpi_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& processor_name() const { return processor_name_; }

  // Collective. The ranks with equal color, ordered by key.
  MpiLibrary::Comm split(int color, int key);
  // n buffers of size_bytes each, valid as long as the engine.
  std::vector<MpiSendBuffer*> make_send_buffers(int n, size_t size_bytes);
  std::vector<MpiRecvBuffer*> make_recv_buffers(int n, size_t size_bytes);

  // op, here and below: what the caller is doing, for messages.
  MpiPending post_send(const char* op, const void* data, const MpiRoute& route);
  MpiPending post_recv(const char* op, void* data, const MpiRoute& route);
  // Waits for all of them. Throws CommError naming op, peer and time.
  void wait(const char* op, std::span<MpiPending> pending, std::chrono::milliseconds deadline);

  // Waits until the buffer, whose last message goes to `peer`, may be written again.
  void wait_free(const char* op, MpiSendBuffer& buffer, int peer,
                 std::chrono::milliseconds deadline);
  // Sends the first route.size_bytes of the buffer and returns; the engine finishes it.
  void start_send(const char* op, MpiSendBuffer& buffer, const MpiRoute& route);

  // Posts a receive of at most route.size_bytes; the engine keeps it moving.
  void start_recv(const char* op, MpiRecvBuffer& buffer, const MpiRoute& route);
  // Waits until the buffer holds its message.
  void wait_received(const char* op, MpiRecvBuffer& buffer, std::chrono::milliseconds deadline);

  void throw_if_aborted(const char* op) const;
  void abort() noexcept;
  bool finalize(std::chrono::milliseconds deadline);

 private:
  using Clock = std::chrono::steady_clock;

  // Looks until missing_peer(), called under the lock, is kNobody. Any test of a request moves all
  // transfers, so what else is under way is looked at now and then only.
  template <typename MissingPeer>
  void poll(const char* op, std::chrono::milliseconds deadline, MissingPeer missing_peer);
  [[noreturn]] void give_up(const char* op, int peer, Clock::duration waited);
  void check(const char* op, int code) const;
  bool test(const char* op, MpiPending& pending, int* size_bytes = nullptr);
  bool sent(const char* op, MpiSendBuffer& buffer);
  bool received(const char* op, MpiRecvBuffer& buffer);
  void cancel(MpiPending& receive, Clock::time_point end);
  Clock::duration time_to_next_look() const;
  // Makes the progress thread look soon; costs nothing where it will anyway. Under the lock.
  void call_progress_thread() {
    if (thread_sleeps_for_ > kShortestLook) wake_.notify_one();
  }
  void progress();
  void tell_others() noexcept;
  void run_progress_thread();
  void stop_progress_thread();

  static constexpr int kNobody = -1;
  // The progress thread looks after posted receives each 1/64 of the time since the rank's last
  // call, within these: often while a stage computes one plan, hardly while the rank is idle.
  static constexpr std::chrono::microseconds kShortestLook{100};
  static constexpr std::chrono::microseconds kLongestLook{1000};
  static constexpr int kLookPart = 64;

  MpiLibrary mpi_;
  int rank_ = 0;
  int size_ = 1;
  std::string processor_name_;
  MpiLibrary::Comm abort_comm_ = nullptr;

  std::mutex mutex_;  // held for every call into libmpi after construction, and the fields below
  std::condition_variable wake_;
  std::deque<MpiSendBuffer> buffers_;
  std::deque<MpiRecvBuffer> recv_buffers_;
  int n_busy_ = 0;    // sends
  int n_posted_ = 0;  // receives of recv_buffers_
  Clock::duration thread_sleeps_for_{0};
  Clock::time_point last_call_;  // of the rank's own thread
  MpiPending abort_recv_;
  int abort_notice_ = 0;  // the world rank that gave up, as received
  bool told_others_ = false;
  bool stop_ = false;

  std::atomic<bool> aborted_{false};
  std::thread progress_thread_;
};

}  // namespace trireme::detail
