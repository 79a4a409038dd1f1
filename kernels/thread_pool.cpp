#include "kernels/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "kernels/check.h"

namespace trireme {

struct ThreadPool::State {
  std::vector<std::thread> threads;
  std::atomic<uint32_t> generation{0};  // grows with every job, and once more to end
  std::atomic<int> n_pending{0};        // workers that have not finished the job
  std::atomic<int64_t> next{0};         // first index nobody took yet
  std::atomic<bool> stopping{false};
  // The job, written before `generation` grows.
  int64_t n = 0;
  int64_t grain = 1;
  RangeFunction function = nullptr;
  void* context = nullptr;

  void take_ranges() {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= n) return;
      function(context, begin, std::min(begin + grain, n));
    }
  }

  void work() {
    uint32_t seen = 0;
    for (;;) {
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_relaxed)) return;
      take_ranges();
      if (n_pending.fetch_sub(1, std::memory_order_acq_rel) == 1) n_pending.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
  TRIREME_CHECK(n_threads >= 1);
  state_->threads.reserve(static_cast<size_t>(n_threads) - 1);
  for (int i = 1; i < n_threads; ++i) {
    state_->threads.emplace_back([state = state_.get()] { state->work(); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true, std::memory_order_relaxed);
  state_->generation.fetch_add(1, std::memory_order_release);
  state_->generation.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::n_threads() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::run(int64_t n, int64_t grain, RangeFunction function, void* context) {
  TRIREME_CHECK(n >= 0 && grain >= 1);
  State& state = *state_;
  state.n = n;
  state.grain = grain;
  state.function = function;
  state.context = context;
  state.next.store(0, std::memory_order_relaxed);
  state.n_pending.store(n_threads() - 1, std::memory_order_relaxed);
  state.generation.fetch_add(1, std::memory_order_release);
  state.generation.notify_all();
  state.take_ranges();
  for (int pending = state.n_pending.load(std::memory_order_acquire); pending != 0;
       pending = state.n_pending.load(std::memory_order_acquire)) {
    state.n_pending.wait(pending, std::memory_order_acquire);
  }
}

}  // namespace trireme
