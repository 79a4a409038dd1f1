#include "coordinator/cli/detached_coordinator.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "coordinator/cli/command_line.h"
#include "coordinator/cli/machine.h"
#include "coordinator/cluster/launchers.h"
#include "coordinator/handover/handover_exec.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr std::chrono::seconds kEndWithCoordinator{5};

// A port that was free a moment ago: the ranks must know it before the coordinator listens.
uint16_t free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof address;
  const bool ok = fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (fd >= 0) close(fd);
  if (!ok) throw EnvironmentError("no free TCP port on this host for the ranks to dial");
  return ntohs(address.sin_port);
}

bool all_ranks_here() {
  const char* world = std::getenv("OMPI_COMM_WORLD_SIZE");
  const char* local = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  return world != nullptr && local != nullptr && std::strcmp(world, local) == 0;
}

// Passes on what the coordinator prints. Its end is the end of the job: the ranks were told and go
// by themselves; if they do not, this rank's end makes mpirun end them.
void relay_output(int fd) {
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    if (write(STDERR_FILENO, buffer.data(), static_cast<size_t>(n)) < 0) break;
  }
  std::this_thread::sleep_for(kEndWithCoordinator);
  _exit(1);
}

[[noreturn]] void run_coordinator(std::vector<std::string> arguments, int output) {
  setsid();
  const int nowhere = open("/dev/null", O_RDONLY);
  dup2(nowhere, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  close(nowhere);
  close(output);
  std::vector<char*> argv;
  for (std::string& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  std::exit(command_line_main(static_cast<int>(arguments.size()), argv.data()));
}

}  // namespace

int own_mpirun_rank(int argc, char** argv) {
  if (argc < 2 || std::strcmp(argv[1], "serve") != 0) return -1;
  if (std::getenv(kHandoverVariable) != nullptr) return -1;  // the coordinator, upgraded
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  return rank == nullptr ? -1 : std::atoi(rank);
}

std::string start_detached_coordinator(int argc, char** argv) {
  const std::string secret = random_secret();
  const std::string address = all_ranks_here() ? "127.0.0.1" : first_address();
  const uint16_t port = free_port();
  const std::string port_text = std::to_string(port);
  std::vector<std::string> arguments(argv, argv + argc);
  for (const char* extra : {"--launcher", "joined", "--control-address", address.c_str(),
                            "--control-port", port_text.c_str()}) {
    arguments.emplace_back(extra);
  }
  setenv("TRIREME_SECRET", secret.c_str(), 1);
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) {
    throw EnvironmentError("cannot make a pipe: too many open files; raise ulimit -n");
  }
  // Twice, so that the coordinator is no child of the job.
  const pid_t child = fork();
  if (child == 0) {
    if (fork() == 0) run_coordinator(std::move(arguments), output[1]);
    _exit(0);
  }
  if (child < 0) throw EnvironmentError("cannot fork the coordinator: raise ulimit -u");
  waitpid(child, nullptr, 0);
  close(output[1]);
  std::thread(relay_output, output[0]).detach();
  return dial_address(!is_loopback(address), address, port) + " " + secret;
}

}  // namespace trireme
