#include "coordinator/cluster/epoch_processes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>

#include "comm/control/world_shape.h"
#include "coordinator/handover/group_state.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr size_t kMaxLogBytes = size_t{4} << 20;
constexpr size_t kMaxTailBytes = size_t{64} << 10;
constexpr int64_t kLauncherEndMs = 500;  // after one of its ranks; it takes 31 ms, or for ever
constexpr int kLastRounds = 100;
constexpr std::chrono::milliseconds kLastPause{10};

std::string folder_of(const LaunchSpec& spec, uint64_t epoch) {
  return fmt::format("{}/r{}e{}", spec.run_folder, spec.replica, epoch);
}

}  // namespace

EpochProcesses::EpochProcesses(boost::asio::io_context& io, const LaunchSpec& spec, uint64_t epoch,
                               OnExit on_exit)
    : io_(io),
      spec_(spec),
      epoch_(epoch),
      on_exit_(std::move(on_exit)),
      folder_(folder_of(spec, epoch)),
      output_(io) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) {
    throw EnvironmentError(
        fmt::format("cannot make the folder {}: {}; choose a run folder that can "
                    "be written",
                    folder_, error.message()));
  }
  log_.open(folder_ + "/launch.log", std::ios::binary);
  if (spec_.launcher == LauncherKind::kLocal) {
    region_.emplace(SharedRegion::create(world_shape(spec_.job)));
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    throw EnvironmentError(fmt::format("cannot make a pipe: {}; allow more open files (ulimit -n)",
                                       std::strerror(errno)));
  }
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  output_.assign(ends[0]);
  output_writer_ = UniqueFd(ends[1]);
}

// The ranks have mapped their shared memory by now: nobody else needs it.
EpochProcesses::EpochProcesses(boost::asio::io_context& io, const LaunchSpec& spec, uint64_t epoch,
                               OnExit on_exit, const EpochState& state)
    : io_(io),
      spec_(spec),
      epoch_(epoch),
      on_exit_(std::move(on_exit)),
      folder_(folder_of(spec, epoch)),
      log_(folder_ + "/launch.log", std::ios::binary | std::ios::app),
      log_bytes_(state.log_bytes),
      tail_(state.output_tail),
      output_(io) {
  for (const ProcessState& process : state.processes)
    processes_.push_back(Process::take_over(process));
  if (state.output_fd >= 0) {
    output_.assign(state.output_fd);
    watch_output();
  }
  watch_exits();
}

EpochState EpochProcesses::state() {
  take_output();
  EpochState state{.processes = {},
                   .output_fd = output_.is_open() ? output_.native_handle() : -1,
                   .output_tail = tail_,
                   .log_bytes = log_bytes_};
  for (const Process& process : processes_) {
    if (!process.ended()) state.processes.push_back(process.state());
  }
  return state;
}

EpochProcesses::~EpochProcesses() {
  *alive_ = false;
  kill();
  exits_.clear();
  for (int round = 0; !poll_gone() && round < kLastRounds; ++round) {
    std::this_thread::sleep_for(kLastPause);
  }
  processes_.clear();
  log_.close();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

Result<size_t> EpochProcesses::launch(uint16_t port, bool is_probe) {
  TRIREME_CHECK(processes_.empty());
  const LaunchContext context{.epoch = epoch_,
                              .port = port,
                              .region_fd = region_ ? region_->fd() : -1,
                              .epoch_folder = folder_,
                              .is_probe = is_probe};
  watch_output();
  for (const LaunchCommand& command : launch_commands(spec_, context)) {
    Result<Process> process = Process::start(command, output_writer_.get(), context.region_fd);
    if (!process) {
      const bool ours = command.argv[0] == spec_.executable;
      return Error{process.error().message +
                       (ours ? ": check that the trireme binary is there"
                             : fmt::format(": install what provides {}, or use another launcher",
                                           command.argv[0])),
                   ""};
    }
    processes_.push_back(std::move(*process));
  }
  // The pipe must end with the processes.
  output_writer_.reset();
  watch_exits();
  return processes_.size();
}

void EpochProcesses::watch_exits() {
  for (size_t i = 0; i < processes_.size(); ++i) {
    exits_.push_back(std::make_unique<boost::asio::posix::stream_descriptor>(
        io_, fcntl(processes_[i].pidfd(), F_DUPFD_CLOEXEC, 0)));
    watch_exit(i);
  }
}

void EpochProcesses::watch_exit(size_t index) {
  exits_[index]->async_wait(boost::asio::posix::stream_descriptor::wait_read,
                            [this, alive = alive_, index](const boost::system::error_code& error) {
                              if (!*alive || error) return;
                              if (const auto what = processes_[index].reap()) on_exit_(*what);
                            });
}

void EpochProcesses::watch_output() {
  output_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                     [this, alive = alive_](const boost::system::error_code& error) {
                       if (!*alive || error) return;
                       take_output();
                       if (output_.is_open()) watch_output();
                     });
}

void EpochProcesses::take_output() {
  std::array<char, 16384> chunk;
  while (output_.is_open()) {
    const ssize_t n = read(output_.native_handle(), chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;  // nothing more for now
    if (n == 0) {
      output_.close();
      return;
    }
    const auto n_bytes = static_cast<size_t>(n);
    if (log_bytes_ + n_bytes <= kMaxLogBytes) {
      log_.write(chunk.data(), n).flush();
      log_bytes_ += n_bytes;
    }
    tail_.append(chunk.data(), n_bytes);
    if (tail_.size() > 2 * kMaxTailBytes) tail_.erase(0, tail_.size() - kMaxTailBytes);
  }
}

void EpochProcesses::signal(int signal) {
  for (const Process& process : processes_) process.signal_group(signal);
}

// What mpirun and srun start lives in sessions of its own.
bool EpochProcesses::starts_sessions() const {
  return spec_.launcher == LauncherKind::kMpirun || spec_.launcher == LauncherKind::kSrun;
}

void EpochProcesses::kill() {
  killing_ = true;
  signal(SIGKILL);
  if (starts_sessions()) signal_processes_with(launch_environment(spec_, epoch_), SIGKILL);
}

bool EpochProcesses::poll_gone() {
  bool gone = true;
  for (Process& process : processes_) {
    const std::optional<std::string> what = process.reap();
    if (what && *alive_) on_exit_(*what);
    gone = gone && process.ended();
  }
  if (!gone || !starts_sessions()) return gone;
  const int n_left =
      signal_processes_with(launch_environment(spec_, epoch_), killing_ ? SIGKILL : 0);
  n_empty_looks_ = n_left == 0 ? n_empty_looks_ + 1 : 0;
  return n_empty_looks_ >= 2;
}

void EpochProcesses::find_ranks() {
  const std::string rank = fmt::format("{}{}worker{}", spec_.executable, '\0', '\0');
  for_each_process_with(launch_environment(spec_, epoch_), [&](pid_t pid, UniqueFd&& pidfd) {
    std::string command(rank.size(), '\0');
    std::ifstream(fmt::format("/proc/{}/cmdline", pid), std::ios::binary)
        .read(command.data(), static_cast<std::streamsize>(command.size()));
    if (command == rank) found_ranks_.try_emplace(pid, FoundRank{std::move(pidfd), {}});
  });
}

bool EpochProcesses::has_lost_rank(int64_t now_ms) {
  if (!starts_sessions()) return false;
  for (auto& [pid, rank] : found_ranks_) {
    pollfd waiting{.fd = rank.pidfd.get(), .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, 0) != 1) continue;
    if (!rank.ended_ms) rank.ended_ms = now_ms;
    if (now_ms - *rank.ended_ms >= kLauncherEndMs) return true;
  }
  if (static_cast<int>(found_ranks_.size()) < spec_.job.layout.n_ranks()) find_ranks();
  return false;
}

const std::string& EpochProcesses::output() {
  take_output();
  return tail_;
}

}  // namespace trireme
