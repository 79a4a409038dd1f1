#include "coordinator/cluster/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "coordinator/handover/group_state.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr int kLastWaitMs = 2000;

// System calls by number: glibc 2.36's <sys/pidfd.h> lacks C linkage for C++.
int open_pidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

void signal_pidfd(int pidfd, int signal) {
  syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0);
}

std::vector<std::string> merged_environment(const LaunchCommand& command) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view existing(*entry);
    bool replaced = false;
    for (const auto& [name, value] : command.environment) {
      replaced = replaced || existing.substr(0, existing.find('=')) == name;
    }
    if (!replaced) merged.emplace_back(existing);
  }
  for (const auto& [name, value] : command.environment) merged.push_back(name + "=" + value);
  return merged;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

struct ChildPlan {
  char* const* argv;
  char* const* environment;
  int output_fd;
  int kept_fd;
  int death_signal;
  pid_t parent;
};

// Between fork and exec: only async-signal-safe calls. Returns when exec did not happen.
void become_child(const ChildPlan& plan) {
  setsid();
  if (plan.death_signal != 0) prctl(PR_SET_PDEATHSIG, plan.death_signal);
  if (getppid() != plan.parent) _exit(127);  // the coordinator died before prctl

  struct sigaction normal {};
  normal.sa_handler = SIG_DFL;
  for (const int signal : {SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGCHLD}) {
    sigaction(signal, &normal, nullptr);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);

  const int empty = open("/dev/null", O_RDONLY);
  dup2(empty, STDIN_FILENO);
  dup2(plan.output_fd, STDOUT_FILENO);
  dup2(plan.output_fd, STDERR_FILENO);
  close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  if (plan.kept_fd >= 0) fcntl(plan.kept_fd, F_SETFD, 0);
  execvpe(plan.argv[0], plan.argv, plan.environment);
}

std::string how_it_ended(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return fmt::format("ended with status {}", info.si_status);
  return fmt::format("was killed by signal {} ({})", info.si_status, strsignal(info.si_status));
}

// Whether the NUL-separated `environment` holds this entry.
bool holds_entry(const std::string& environment, const std::string& entry) {
  for (size_t at = 0; at < environment.size();) {
    const size_t end = std::min(environment.find('\0', at), environment.size());
    if (environment.compare(at, end - at, entry) == 0) return true;
    at = end + 1;
  }
  return false;
}

std::string read_environment(pid_t pid) {
  std::ifstream in(fmt::format("/proc/{}/environ", pid), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

Result<Process> Process::start(const LaunchCommand& command, int output_fd, int kept_fd) {
  TRIREME_CHECK(!command.argv.empty());
  std::vector<std::string> arguments = command.argv;
  std::vector<std::string> environment = merged_environment(command);
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> envp = pointers(environment);
  const ChildPlan plan{.argv = argv.data(),
                       .environment = envp.data(),
                       .output_fd = output_fd,
                       .kept_fd = kept_fd,
                       .death_signal = command.death_signal,
                       .parent = getpid()};
  const auto cannot = [&command](int error) {
    return Error{fmt::format("cannot start {}: {}", command.argv[0], std::strerror(error)), ""};
  };

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return cannot(errno);
  UniqueFd exec_error_in(ends[0]);
  UniqueFd exec_error_out(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return cannot(errno);
  if (pid == 0) {
    become_child(plan);
    const int error = errno;
    if (write(exec_error_out.get(), &error, sizeof(error)) < 0) _exit(126);
    _exit(127);
  }
  UniqueFd pidfd(open_pidfd(pid));
  const int pidfd_error = errno;
  exec_error_out.reset();
  int error = 0;
  ssize_t n = 0;
  do {
    n = read(exec_error_in.get(), &error, sizeof(error));
  } while (n < 0 && errno == EINTR);
  if (n == sizeof(error) || !pidfd) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return cannot(n == sizeof(error) ? error : pidfd_error);
  }
  return Process(command.name, pid, std::move(pidfd));
}

Process Process::take_over(const ProcessState& state) {
  return {state.name, static_cast<pid_t>(state.pid), UniqueFd(state.pidfd)};
}

ProcessState Process::state() const {
  TRIREME_CHECK(!ended_);
  return {.name = name_, .pid = pid_, .pidfd = pidfd_.get()};
}

Process::Process(std::string name, pid_t pid, UniqueFd pidfd)
    : name_(std::move(name)), pid_(pid), pidfd_(std::move(pidfd)) {}

Process::Process(Process&& other) noexcept
    : name_(std::move(other.name_)),
      pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      ended_(other.ended_) {}

Process::~Process() {
  if (pid_ < 0) return;
  signal_group(SIGKILL);
  if (ended_) return;
  pollfd waiting{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
  poll(&waiting, 1, kLastWaitMs);
  reap();
}

void Process::signal_group(int signal) const {
  // The group outlives its leader as long as it has members, and its number is not reused until
  // then. Once the leader is reaped and the group is empty the number could be anybody's.
  if (!ended_) kill(-pid_, signal);
}

std::optional<std::string> Process::reap() {
  if (ended_) return std::nullopt;
  siginfo_t info{};
  // Looked at before it is reaped: while it is a zombie its group's number cannot be reused, so
  // this is the moment to end what else is in the group.
  if (waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      info.si_pid == 0) {
    return std::nullopt;
  }
  kill(-pid_, SIGKILL);
  waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED | WNOHANG);
  ended_ = true;
  return fmt::format("{} {}", name_, how_it_ended(info));
}

void for_each_process_with(const Environment& entries,
                           const std::function<void(pid_t pid, UniqueFd&& pidfd)>& found) {
  const std::unique_ptr<DIR, int (*)(DIR*)> processes(opendir("/proc"), &closedir);
  if (!processes) return;
  while (const dirent* entry = readdir(processes.get())) {
    pid_t pid = 0;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    const auto parsed = std::from_chars(entry->d_name, end, pid);
    if (parsed.ec != std::errc() || parsed.ptr != end || pid == getpid()) continue;
    // Opened before the look, so that it is of the process that was looked at.
    UniqueFd pidfd(open_pidfd(pid));
    if (!pidfd) continue;
    const std::string environment = read_environment(pid);
    if (!std::all_of(entries.begin(), entries.end(), [&environment](const auto& wanted) {
          return holds_entry(environment, wanted.first + "=" + wanted.second);
        })) {
      continue;
    }
    found(pid, std::move(pidfd));
  }
}

int signal_processes_with(const Environment& entries, int signal) {
  int n_found = 0;
  for_each_process_with(entries, [&](pid_t, UniqueFd&& pidfd) {
    ++n_found;
    if (signal != 0) signal_pidfd(pidfd.get(), signal);
  });
  return n_found;
}

}  // namespace trireme
