#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace trireme {

// The jobs of a kind that have not ended, for whoever wants to see them all. Thread-safe.
template <typename Job>
class LiveJobs {
 public:
  void add(const std::shared_ptr<Job>& job) {
    const std::lock_guard lock(mutex_);
    if (jobs_.size() >= next_sweep_) {
      std::erase_if(jobs_, [](const auto& known) { return known.expired(); });
      next_sweep_ = std::max<size_t>(next_sweep_, 2 * jobs_.size());
    }
    jobs_.push_back(job);
  }

  std::vector<std::shared_ptr<Job>> all() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<Job>> live;
    for (const auto& known : jobs_) {
      if (auto job = known.lock()) live.push_back(std::move(job));
    }
    return live;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::weak_ptr<Job>> jobs_;
  size_t next_sweep_ = 64;  // size at which those that are gone are forgotten
};

}  // namespace trireme
