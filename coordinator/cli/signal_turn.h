#pragma once

#include <condition_variable>
#include <mutex>

namespace trireme {

// Who may act on the process: the one who takes its signals, or an upgrade, which leaves them to
// the program that follows.
class SignalTurn {
 public:
  // Waits while an upgrade is under way. To be followed by leave().
  void enter() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !upgrading_; });
    looking_ = true;
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    looking_ = false;
    changed_.notify_all();
  }
  // Instead of leave(): the server ends, no upgrade is begun any more.
  void end() {
    const std::lock_guard lock(mutex_);
    looking_ = false;
    ending_ = true;
    changed_.notify_all();
  }

  // False: the server ends. Else to be followed by end_upgrade().
  bool begin_upgrade() {
    std::unique_lock lock(mutex_);
    upgrading_ = true;
    changed_.wait(lock, [this] { return !looking_ || ending_; });
    if (!ending_) return true;
    upgrading_ = false;
    return false;
  }
  void end_upgrade() {
    const std::lock_guard lock(mutex_);
    upgrading_ = false;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool looking_ = false;
  bool upgrading_ = false;
  bool ending_ = false;
};

}  // namespace trireme
