#pragma once

namespace trireme {

// Turns SIGTERM and SIGINT into something that can be waited for, and, when asked to, SIGHUP into
// something that can be looked for. Made before any thread, so that
// every thread has them blocked; children get them back.
class EndSignals {
 public:
  explicit EndSignals(bool hangups = false);
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // Waits for a signal or wake(); true for a signal.
  bool wait();
  // The same, at most `timeout_ms`: false when neither came, too.
  bool wait_for(int timeout_ms);
  // Whether SIGHUP came since the last call.
  bool take_hangup();
  // From any thread: ends the wait.
  void wake() noexcept;

 private:
  int signal_fd_;
  int wake_fd_;
  int hangup_fd_ = -1;
};

}  // namespace trireme
