#include "coordinator/http/task_pool.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/check.h"

namespace trireme {

struct TaskPool::State {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> tasks;
  bool stopping = false;
  int n_busy = 0;
  uint64_t n_run = 0;
  std::condition_variable idle;
  std::vector<std::thread> threads;

  void work() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return stopping || !tasks.empty(); });
        if (tasks.empty()) return;
        task = std::move(tasks.front());
        tasks.pop_front();
        ++n_busy;
      }
      task();
      task = nullptr;
      const std::lock_guard lock(mutex);
      ++n_run;
      if (--n_busy == 0 && tasks.empty()) idle.notify_all();
    }
  }
};

TaskPool::TaskPool(int n_threads) : state_(std::make_unique<State>()) {
  TRIREME_CHECK(n_threads > 0);
  for (int i = 0; i < n_threads; ++i) {
    state_->threads.emplace_back([state = state_.get()] { state->work(); });
  }
}

TaskPool::~TaskPool() { stop(); }

void TaskPool::post(std::function<void()> task) {
  {
    std::lock_guard lock(state_->mutex);
    if (state_->stopping) return;
    state_->tasks.push_back(std::move(task));
  }
  state_->changed.notify_one();
}

bool TaskPool::wait_idle(std::chrono::steady_clock::time_point deadline, uint64_t* n_run) {
  std::unique_lock lock(state_->mutex);
  const bool idle = state_->idle.wait_until(
      lock, deadline, [this] { return state_->n_busy == 0 && state_->tasks.empty(); });
  *n_run = state_->n_run;
  return idle;
}

void TaskPool::stop() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  for (std::thread& thread : state_->threads) {
    if (thread.joinable()) thread.join();
  }
}

}  // namespace trireme
