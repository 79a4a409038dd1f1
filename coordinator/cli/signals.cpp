#include "coordinator/cli/signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>

#include "kernels/result.h"

namespace trireme {

EndSignals::EndSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a reader that went away is an error of that write only
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  wake_fd_ = eventfd(0, EFD_CLOEXEC);
  if (signal_fd_ < 0 || wake_fd_ < 0) {
    throw EnvironmentError("cannot watch for signals: too many open files; raise ulimit -n");
  }
}

EndSignals::~EndSignals() {
  close(signal_fd_);
  close(wake_fd_);
}

bool EndSignals::wait() { return wait_for(-1); }

bool EndSignals::wait_for(int timeout_ms) {
  pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
  int n = 0;
  do {
    n = poll(fds, 2, timeout_ms);
  } while (n < 0 && errno == EINTR);
  if (n <= 0 || (fds[0].revents & POLLIN) == 0) return false;
  signalfd_siginfo info{};
  return read(signal_fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info);
}

void EndSignals::wake() noexcept {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_fd_, &one, sizeof one);
}

}  // namespace trireme
