#include "kernels/thread_pool.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <string>
#include <system_error>
#include <thread>

#include "kernels/adaptive_spin.h"
#include "kernels/check.h"
#include "kernels/cpu_topology.h"
#include "kernels/int_math.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr size_t kLine = 64;
constexpr int64_t kMaxShare = 65535;  // units of one thread: counts of 16 bits
constexpr int64_t kTakePart = 4;      // of what is left of a share is taken at a time

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word, int64_t n) {
  const auto count = static_cast<int>(std::min<int64_t>(n, INT_MAX));
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

// One thread's place.
struct Seat {
  // The job this thread works on, as in State::job; 0: none. The caller waits for it.
  alignas(kLine) std::atomic<uint32_t> joined{0};
  // What is taken of this thread's share: job << 32 | units from the end << 16 | units from the
  // front. A word of another job says that nothing is: shares need no preparation.
  alignas(kLine) std::atomic<uint64_t> taken{0};
};

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

}  // namespace

struct ThreadPool::State {
  explicit State(int n_threads)
      : n_seats(n_threads), seats(new Seat[static_cast<size_t>(n_threads)]) {}

  // Number of the job * 2, and 1 while threads may join it. Also what idle threads sleep on.
  alignas(kLine) std::atomic<uint32_t> job{0};
  // The job, written before it opens.
  int64_t n = 0;
  int64_t unit = 1;  // indices
  int64_t n_units = 0;
  RangeFunction function = nullptr;
  void* context = nullptr;

  alignas(kLine) std::atomic<uint32_t> n_sleeping{0};  // idle threads
  std::atomic<uint32_t> caller_sleeps{0};
  std::atomic<bool> stopping{false};

  const int n_seats;
  const std::unique_ptr<Seat[]> seats;  // [n_seats]
  AdaptiveSpin caller_spin;
  std::vector<std::thread> threads;

  // First unit of a share; the first shares are the longer ones.
  int64_t share_begin(int seat) const { return div_ceil(seat * n_units, int64_t{n_seats}); }

  // Takes some units of a seat's share, the owner from the front, others from the end. Empty when
  // nothing is left.
  Range take(int seat, bool own, uint64_t number) {
    const Range share{share_begin(seat), share_begin(seat + 1)};
    std::atomic<uint64_t>& word = seats[static_cast<size_t>(seat)].taken;
    uint64_t seen = word.load(std::memory_order_relaxed);
    while (true) {
      const uint64_t counts = seen >> 32 == number ? seen & 0xffff'ffff : 0;
      const Range left{share.begin + static_cast<int64_t>(counts & 0xffff),
                       share.end - static_cast<int64_t>(counts >> 16)};
      if (left.begin >= left.end) return {};
      const int64_t n_taken = div_ceil(left.end - left.begin, kTakePart);
      const auto add = static_cast<uint64_t>(n_taken) << (own ? 0 : 16);
      if (word.compare_exchange_weak(seen, number << 32 | (counts + add),
                                     std::memory_order_relaxed)) {
        return own ? Range{left.begin, left.begin + n_taken} : Range{left.end - n_taken, left.end};
      }
    }
  }

  void work_on(int seat, uint64_t number) {
    for (int i = 0; i < n_seats; ++i) {
      const int owner = seat + i < n_seats ? seat + i : seat + i - n_seats;
      for (Range r = take(owner, i == 0, number); r.begin < r.end;
           r = take(owner, i == 0, number)) {
        function(context, r.begin * unit, std::min(r.end * unit, n));
      }
    }
  }

  // A thread says that it joins and then looks whether the job is still open; the caller closes it
  // and then looks who has joined. In the one order of these operations one of them sees the other.
  void join(int seat, uint32_t open_job) {
    std::atomic<uint32_t>& joined = seats[static_cast<size_t>(seat)].joined;
    joined.store(open_job, std::memory_order_seq_cst);
    if (job.load(std::memory_order_seq_cst) == open_job) work_on(seat, open_job >> 1);
    joined.store(0, std::memory_order_seq_cst);
    if (caller_sleeps.load(std::memory_order_seq_cst) != 0) futex_wake(joined, 1);
  }

  // Until a job follows the one of `seen`.
  void wait_for_job(AdaptiveSpin& spin, uint32_t seen) {
    const auto is_new = [&] { return job.load(std::memory_order_acquire) >> 1 != seen >> 1; };
    if (spin.poll(is_new)) return;
    n_sleeping.fetch_add(1, std::memory_order_seq_cst);
    for (uint32_t now = job.load(std::memory_order_seq_cst); now >> 1 == seen >> 1;
         now = job.load(std::memory_order_seq_cst)) {
      futex_wait(job, now);
    }
    n_sleeping.fetch_sub(1, std::memory_order_seq_cst);
    spin.slept();
  }

  void live(int seat) {
    AdaptiveSpin spin;
    for (uint32_t seen = 0;;) {
      wait_for_job(spin, seen);
      seen = job.load(std::memory_order_seq_cst);
      if (stopping.load(std::memory_order_relaxed)) return;
      if ((seen & 1) != 0) join(seat, seen);
    }
  }

  void stop() {
    stopping.store(true, std::memory_order_relaxed);
    job.fetch_add(2, std::memory_order_seq_cst);
    futex_wake(job, INT_MAX);
    for (std::thread& thread : threads) thread.join();
  }

  // The next job; what it is has been written.
  uint32_t open() {
    const uint32_t open_job = (job.load(std::memory_order_relaxed) | 1) + 2;
    job.store(open_job, std::memory_order_seq_cst);
    if (n_sleeping.load(std::memory_order_seq_cst) != 0) futex_wake(job, n_units - 1);
    return open_job;
  }

  // Nobody joins it any more; returns when those who did have left.
  void close(uint32_t open_job) {
    job.store(open_job - 1, std::memory_order_seq_cst);
    for (int i = 1; i < n_seats; ++i) {
      std::atomic<uint32_t>& joined = seats[static_cast<size_t>(i)].joined;
      if (joined.load(std::memory_order_seq_cst) != open_job) continue;
      if (caller_spin.poll([&] { return joined.load(std::memory_order_acquire) != open_job; })) {
        continue;
      }
      caller_sleeps.store(1, std::memory_order_seq_cst);
      while (joined.load(std::memory_order_seq_cst) == open_job) futex_wait(joined, open_job);
      caller_sleeps.store(0, std::memory_order_seq_cst);
      caller_spin.slept();
    }
  }
};

ThreadPool::ThreadPool(int n_threads, const std::vector<int>& cpus) {
  TRIREME_CHECK(n_threads >= 1);
  TRIREME_CHECK(cpus.empty() || cpus.size() >= static_cast<size_t>(n_threads));
  state_ = std::make_unique<State>(n_threads);
  const auto cpus_of = [&](int seat) {
    return cpus.size() == static_cast<size_t>(n_threads)
               ? std::vector<int>{cpus[static_cast<size_t>(seat)]}
               : cpus;
  };
  state_->threads.reserve(static_cast<size_t>(n_threads) - 1);
  for (int i = 1; i < n_threads; ++i) {
    try {
      state_->threads.emplace_back([state = state_.get(), i, own_cpus = cpus_of(i)] {
        bind_this_thread(own_cpus);
        state->live(i);
      });
    } catch (const std::system_error& error) {
      state_->stop();
      throw EnvironmentError("thread " + std::to_string(i + 1) + " of " +
                             std::to_string(n_threads) + " cannot be started (" +
                             error.code().message() +
                             "): use fewer, or raise the limit on processes and memory");
    }
  }
  bind_this_thread(cpus_of(0));
}

ThreadPool::~ThreadPool() { state_->stop(); }

int ThreadPool::n_threads() const { return state_->n_seats; }

void ThreadPool::run(int64_t n, int64_t grain, RangeFunction function, void* context) {
  TRIREME_CHECK(n >= 0 && grain >= 1);
  State& state = *state_;
  TRIREME_CHECK_MSG((state.job.load(std::memory_order_relaxed) & 1) == 0, "a job runs already");
  if (n == 0) return;
  const int64_t n_grains = div_ceil(n, grain);
  state.n = n;
  state.unit = grain * div_ceil(n_grains, kMaxShare * state.n_seats);
  state.n_units = div_ceil(n, state.unit);
  state.function = function;
  state.context = context;
  const uint32_t job = state.open();
  state.work_on(0, job >> 1);
  state.close(job);
}

}  // namespace trireme
