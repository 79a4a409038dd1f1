#include "tests/comm/rank_groups.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <exception>
#include <thread>

namespace trireme::test {
namespace {

std::string run_rank(const SharedRegion& region, const CommOptions& options, int world_rank,
                     const RankMain& rank_main) {
  try {
    RankComms comms = make_region_comms(region, world_rank, options);
    rank_main(world_rank, comms);
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

struct Child {
  pid_t pid = -1;
  int message_fd = -1;
};

Child fork_rank(const SharedRegion& region, const CommOptions& options, int world_rank,
                const RankMain& rank_main) {
  std::array<int, 2> pipe_fds{};
  if (pipe(pipe_fds.data()) != 0) throw std::runtime_error("pipe failed");
  const pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork failed");
  if (pid > 0) {
    close(pipe_fds[1]);
    return {pid, pipe_fds[0]};
  }
  const SharedRegion attached = SharedRegion::attach(region.fd(), region.shape());
  const std::string message = run_rank(attached, options, world_rank, rank_main);
  const bool told = write(pipe_fds[1], message.data(), message.size()) >= 0;
  _exit(told ? 0 : 1);
}

std::string join_rank(const Child& child) {
  std::string message;
  std::array<char, 512> buffer{};
  for (ssize_t n; (n = read(child.message_fd, buffer.data(), buffer.size())) > 0;) {
    message.append(buffer.data(), static_cast<size_t>(n));
  }
  close(child.message_fd);
  int status = 0;
  waitpid(child.pid, &status, 0);
  if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) return "exit " + std::to_string(WEXITSTATUS(status));
  return message;
}

}  // namespace

std::vector<std::string> run_threads(const SharedRegion& region, const CommOptions& options,
                                     const RankMain& rank_main) {
  const int n_ranks = region.shape().size();
  std::vector<std::string> messages(static_cast<size_t>(n_ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < n_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      messages[static_cast<size_t>(rank)] = run_rank(region, options, rank, rank_main);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return messages;
}

std::vector<std::string> run_processes(const SharedRegion& region, const CommOptions& options,
                                       const RankMain& rank_main) {
  std::vector<Child> children;
  for (int rank = 0; rank < region.shape().size(); ++rank) {
    children.push_back(fork_rank(region, options, rank, rank_main));
  }
  std::vector<std::string> messages;
  for (const Child& child : children) messages.push_back(join_rank(child));
  return messages;
}

}  // namespace trireme::test
