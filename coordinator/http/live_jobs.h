#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace trireme {

class GenerationJob;

// The jobs that have not ended, for whoever wants to see them all. Thread-safe.
class LiveJobs {
 public:
  void add(const std::shared_ptr<GenerationJob>& job);
  std::vector<std::shared_ptr<GenerationJob>> all() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::weak_ptr<GenerationJob>> jobs_;
  size_t next_sweep_ = 64;  // size at which those that are gone are forgotten
};

}  // namespace trireme
