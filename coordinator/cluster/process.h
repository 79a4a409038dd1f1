#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

#include "comm/control/unique_fd.h"
#include "coordinator/cluster/launchers.h"
#include "kernels/result.h"

namespace trireme {

struct ProcessState;

// A child process in a session of its own, so that no terminal signal reaches it and its whole
// process group can be killed. Its end kills the group and reaps the child.
class Process {
 public:
  // Standard input is empty; standard output and error go to `output_fd`. Of all other descriptors
  // only `kept_fd` (-1: none) is inherited. The child gets command.death_signal when the calling
  // *thread* ends, so that one must live as long as the coordinator.
  static Result<Process> start(const LaunchCommand& command, int output_fd, int kept_fd);
  // A child that another coordinator started in this process, and its pidfd.
  static Process take_over(const ProcessState& state);
  ProcessState state() const;

  Process(Process&& other) noexcept;
  Process& operator=(Process&&) = delete;
  ~Process();

  const std::string& name() const { return name_; }
  pid_t pid() const { return pid_; }
  // Readable once the process has ended.
  int pidfd() const { return pidfd_.get(); }
  bool ended() const { return ended_; }

  void signal_group(int signal) const;
  // Reaps it if it has ended: what became of it ("rank 1 was killed by signal 9 (Killed)"), once.
  std::optional<std::string> reap();

 private:
  Process(std::string name, pid_t pid, UniqueFd pidfd);

  std::string name_;
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  bool ended_ = false;
};

// Every process of this machine that carries all these entries in its environment, which finds what
// a launcher started in sessions of its own. One that is in the middle of an exec is missed, so
// that only a second look makes sure.
void for_each_process_with(const Environment& entries,
                           const std::function<void(pid_t pid, UniqueFd&& pidfd)>& found);
// Sends `signal` (0: none) to each of them, and returns how many it found.
int signal_processes_with(const Environment& entries, int signal);

}  // namespace trireme
