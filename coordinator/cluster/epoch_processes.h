#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstddef>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/shared_region.h"
#include "coordinator/cluster/launchers.h"
#include "coordinator/cluster/process.h"

namespace trireme {

struct EpochState;

// Everything one epoch has on this machine: its processes, their shared memory, what they write,
// and a folder. Its end kills and removes all of it. Used by the io_context's one thread.
class EpochProcesses {
 public:
  // One process ended; told at once.
  using OnExit = std::function<void(const std::string& what)>;

  // Makes the folder and, for the local launcher, the shared memory. Throws EnvironmentError.
  EpochProcesses(boost::asio::io_context& io, const LaunchSpec& spec, uint64_t epoch,
                 OnExit on_exit);
  // Goes on with those that another coordinator started in this process.
  EpochProcesses(boost::asio::io_context& io, const LaunchSpec& spec, uint64_t epoch,
                 OnExit on_exit, const EpochState& state);
  ~EpochProcesses();
  EpochProcesses(const EpochProcesses&) = delete;
  EpochProcesses& operator=(const EpochProcesses&) = delete;

  // Starts all the launcher starts. The error names cause and mend; then nothing is left running.
  Result<size_t> launch(uint16_t port, bool is_probe = false);

  void signal(int signal);
  // From now on also what the launcher started in other sessions is killed as it is found.
  void kill();
  // Whether nothing is left of them on this machine; to be asked again and again.
  bool poll_gone();
  // To be called now and then while ranks come up: whether one that a launcher started on this
  // machine ended a while ago, and the launcher, which should have ended then, has not.
  bool has_lost_rank(int64_t now_ms);
  // What they wrote last (at most 64 KiB).
  const std::string& output();
  // For a handover (coordinator/handover).
  EpochState state();

 private:
  struct FoundRank {
    UniqueFd pidfd;
    std::optional<int64_t> ended_ms;  // when that was first seen
  };

  bool starts_sessions() const;
  void find_ranks();
  void watch_exits();
  void watch_exit(size_t index);
  void watch_output();
  void take_output();

  boost::asio::io_context& io_;
  const LaunchSpec& spec_;
  const uint64_t epoch_;
  OnExit on_exit_;
  std::string folder_;
  std::ofstream log_;
  size_t log_bytes_ = 0;
  std::string tail_;
  std::optional<SharedRegion> region_;
  boost::asio::posix::stream_descriptor output_;
  UniqueFd output_writer_;
  std::vector<Process> processes_;
  std::vector<std::unique_ptr<boost::asio::posix::stream_descriptor>> exits_;  // one per process
  std::map<pid_t, FoundRank> found_ranks_;  // in sessions of their own, on this machine
  bool killing_ = false;
  int n_empty_looks_ = 0;  // in a row, for processes in sessions of their own
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // of this object, for handlers
};

}  // namespace trireme
