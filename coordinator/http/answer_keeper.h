#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "coordinator/journal/journal.h"

namespace trireme {

class GenerationJob;

// The live requests of a server with a journal, by the ids of their answers: a client that lost its
// connection finds its own here. One that does not come back within the grace time is given up.
// Thread-safe.
class AnswerKeeper {
 public:
  struct Options {
    int32_t grace_s = 30;
    // Of what is sent at once to a client that comes back: what is beyond it has to ask again for.
    size_t max_rest_bytes = 2U << 20;
  };

  // The journal must outlive it.
  AnswerKeeper(Journal& journal, const Options& options);
  ~AnswerKeeper();
  AnswerKeeper(const AnswerKeeper&) = delete;
  AnswerKeeper& operator=(const AnswerKeeper&) = delete;

  Journal& journal() const { return journal_; }
  size_t max_rest_bytes() const { return options_.max_rest_bytes; }

  void add(const std::string& id, std::shared_ptr<GenerationJob> job);
  void remove(const std::string& id);
  std::shared_ptr<GenerationJob> find(const std::string& id) const;

  // The client of `id` is gone: from now on it has the grace time. Then the job's give_up().
  void begin_grace(const std::string& id);
  void end_grace(const std::string& id);
  bool in_grace(const std::string& id) const;

  // Ends the thread and forgets the jobs. Idempotent.
  void stop();

 private:
  using Clock = std::chrono::steady_clock;
  struct Kept {
    std::shared_ptr<GenerationJob> job;
    std::optional<Clock::time_point> deadline;
  };

  void run();

  Journal& journal_;
  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Kept> kept_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace trireme
