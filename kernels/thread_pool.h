#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace trireme {

// A fixed set of threads that run one function over an index range at a time. The caller is one of
// them. Work is cut by index only, so results never depend on which thread ran what. Each thread
// starts on a share of its own, the same one for the same range, and takes from the others' ends
// when that is done: memory is streamed in order, and a thread that is late delays nobody.
class ThreadPool {
 public:
  // n_threads >= 1, the caller included. Starts n_threads - 1 threads. `cpus`: where they may run,
  // the constructing thread too: one each when there are as many as threads, all of them for all
  // threads when there are more; empty: wherever the system puts them. Throws EnvironmentError.
  explicit ThreadPool(int n_threads, const std::vector<int>& cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const;

  // Calls function(context, begin, end) so that the ranges tile [0, n); each range a multiple of
  // `grain` long but the last. Returns when all are done. Not reentrant, allocates nothing.
  using RangeFunction = void (*)(void* context, int64_t begin, int64_t end);
  void run(int64_t n, int64_t grain, RangeFunction function, void* context);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Runs `body(begin, end)` over [0, n) on the pool, or on this thread when there is none.
template <typename Body>
void parallel_for(ThreadPool* pool, int64_t n, int64_t grain, const Body& body) {
  if (n <= 0) return;
  if (pool == nullptr || n <= grain) {
    body(int64_t{0}, n);
    return;
  }
  pool->run(
      n, grain,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<const Body*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace trireme
