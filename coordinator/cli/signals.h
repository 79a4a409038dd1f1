#pragma once

namespace trireme {

// Turns SIGTERM and SIGINT into something that can be waited for. Made before any thread, so that
// every thread has them blocked; children get them back.
class EndSignals {
 public:
  EndSignals();
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // Waits for a signal or wake(); true for a signal.
  bool wait();
  // The same, at most `timeout_ms`: false when neither came, too.
  bool wait_for(int timeout_ms);
  // From any thread: ends the wait.
  void wake() noexcept;

 private:
  int signal_fd_;
  int wake_fd_;
};

}  // namespace trireme
