#include "coordinator/cli/signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <initializer_list>

#include "kernels/result.h"

namespace trireme {

namespace {

// Readable when one of `signals` came, which then does nothing else.
int watch(std::initializer_list<int> signals, int flags) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  return signalfd(-1, &set, SFD_CLOEXEC | flags);
}

}  // namespace

EndSignals::EndSignals(bool hangups) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that went away is an error of that write only
  signal_fd_ = watch({SIGTERM, SIGINT}, 0);
  if (hangups) hangup_fd_ = watch({SIGHUP}, SFD_NONBLOCK);
  wake_fd_ = eventfd(0, EFD_CLOEXEC);
  if (signal_fd_ < 0 || wake_fd_ < 0 || (hangups && hangup_fd_ < 0)) {
    throw EnvironmentError("cannot watch for signals: too many open files; raise ulimit -n");
  }
}

EndSignals::~EndSignals() {
  close(signal_fd_);
  close(wake_fd_);
  if (hangup_fd_ >= 0) close(hangup_fd_);
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

bool EndSignals::take_hangup() {
  signalfd_siginfo info{};
  return hangup_fd_ >= 0 &&
         read(hangup_fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info);
}

void EndSignals::wake() noexcept {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_fd_, &one, sizeof one);
}

}  // namespace trireme
