#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace trireme {

// A few threads that run tasks in the order posted (tasks of different threads overlap). Where
// tasks hold the pool, its owner must stop() it: a pool cannot end from within one of its threads.
class TaskPool {
 public:
  explicit TaskPool(int n_threads);
  ~TaskPool();
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;

  // After stop() tasks are dropped.
  void post(std::function<void()> task);
  // Waits until no task is queued or runs; false when that took too long. `n_run`: tasks so far.
  bool wait_idle(std::chrono::steady_clock::time_point deadline, uint64_t* n_run);
  // Runs what is queued, then ends the threads. Not from one of them.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
