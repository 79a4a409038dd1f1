#include "coordinator/http/live_jobs.h"

#include <algorithm>

#include "coordinator/http/generation_job.h"

namespace trireme {

void LiveJobs::add(const std::shared_ptr<GenerationJob>& job) {
  const std::lock_guard lock(mutex_);
  if (jobs_.size() >= next_sweep_) {
    std::erase_if(jobs_, [](const auto& known) { return known.expired(); });
    next_sweep_ = std::max<size_t>(next_sweep_, 2 * jobs_.size());
  }
  jobs_.push_back(job);
}

std::vector<std::shared_ptr<GenerationJob>> LiveJobs::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<GenerationJob>> live;
  for (const auto& known : jobs_) {
    if (auto job = known.lock()) live.push_back(std::move(job));
  }
  return live;
}

}  // namespace trireme
