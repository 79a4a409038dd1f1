#include "coordinator/http/answer_keeper.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "coordinator/http/generation_job.h"

namespace trireme {

AnswerKeeper::AnswerKeeper(Journal& journal, const Options& options)
    : journal_(journal), options_(options), thread_([this] { run(); }) {}

AnswerKeeper::~AnswerKeeper() { stop(); }

void AnswerKeeper::add(const std::string& id, std::shared_ptr<GenerationJob> job) {
  const std::lock_guard lock(mutex_);
  if (!stopping_) kept_[id].job = std::move(job);
}

void AnswerKeeper::remove(const std::string& id) {
  std::shared_ptr<GenerationJob> last;  // ends outside of the lock
  const std::lock_guard lock(mutex_);
  const auto found = kept_.find(id);
  if (found == kept_.end()) return;
  last = std::move(found->second.job);
  kept_.erase(found);
}

std::shared_ptr<GenerationJob> AnswerKeeper::find(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = kept_.find(id);
  return found == kept_.end() ? nullptr : found->second.job;
}

void AnswerKeeper::begin_grace(const std::string& id) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(id);
    if (found == kept_.end()) return;
    found->second.deadline = Clock::now() + std::chrono::seconds(options_.grace_s);
  }
  changed_.notify_one();
}

void AnswerKeeper::end_grace(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = kept_.find(id);
  if (found != kept_.end()) found->second.deadline.reset();
}

bool AnswerKeeper::in_grace(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = kept_.find(id);
  return found != kept_.end() && found->second.deadline.has_value();
}

void AnswerKeeper::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto now = Clock::now();
    std::optional<Clock::time_point> next;
    std::vector<std::shared_ptr<GenerationJob>> late;
    for (auto& [id, kept] : kept_) {
      if (!kept.deadline) continue;
      if (*kept.deadline <= now) {
        late.push_back(kept.job);
        kept.deadline.reset();
      } else {
        next = next ? std::min(*next, *kept.deadline) : *kept.deadline;
      }
    }
    if (!late.empty()) {
      lock.unlock();
      for (const auto& job : late) job->give_up();
      late.clear();
      lock.lock();
    } else if (next) {
      changed_.wait_until(lock, *next);
    } else {
      changed_.wait(lock);
    }
  }
}

void AnswerKeeper::stop() {
  if (!thread_.joinable()) return;
  std::map<std::string, Kept> forgotten;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    forgotten.swap(kept_);
  }
  changed_.notify_one();
  thread_.join();
}

}  // namespace trireme
