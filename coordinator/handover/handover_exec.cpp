#include "coordinator/handover/handover_exec.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "comm/control/unique_fd.h"
#include "coordinator/handover/handover_codec.h"

namespace trireme {
namespace {

bool write_all(int fd, const std::string& bytes) {
  for (size_t begin = 0; begin < bytes.size();) {
    const ssize_t n = write(fd, bytes.data() + begin, bytes.size() - begin);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    begin += static_cast<size_t>(n);
  }
  return true;
}

std::optional<std::string> read_all(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  std::string bytes(static_cast<size_t>(status.st_size), '\0');
  for (size_t begin = 0; begin < bytes.size();) {
    const ssize_t n =
        pread(fd, bytes.data() + begin, bytes.size() - begin, static_cast<off_t>(begin));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    begin += static_cast<size_t>(n);
  }
  return bytes;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

void set_close_on_exec(const std::vector<int>& fds, bool close) {
  for (const int fd : fds) fcntl(fd, F_SETFD, close ? FD_CLOEXEC : 0);
}

}  // namespace

std::string exec_handover(const std::filesystem::path& program, std::vector<std::string> arguments,
                          const HandoverState& state) {
  const UniqueFd memory(memfd_create("trireme-handover", MFD_CLOEXEC));
  if (!memory || !write_all(memory.get(), encode_handover(state)))
    return fmt::format("no memory for what is handed over: {}", std::strerror(errno));

  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  environment.push_back(fmt::format("{}={}", kHandoverVariable, memory.get()));
  arguments.at(0) = program.string();
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> envp = pointers(environment);

  std::vector<int> kept = descriptors(state);
  kept.push_back(memory.get());
  close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  set_close_on_exec(kept, false);
  execve(program.c_str(), argv.data(), envp.data());
  const int error = errno;
  set_close_on_exec(kept, true);
  return fmt::format("cannot run {}: {}", program.string(), std::strerror(error));
}

std::optional<HandoverState> take_handover() {
  const char* given = std::getenv(kHandoverVariable);
  if (given == nullptr) return std::nullopt;
  const std::string text = given;
  unsetenv(kHandoverVariable);
  int fd = -1;
  std::from_chars(text.data(), text.data() + text.size(), fd);
  const UniqueFd memory(fd);
  const std::optional<std::string> bytes = read_all(fd);
  if (!bytes) {
    throw EnvironmentError(fmt::format("{}={} names no handover; it is for trireme upgrade only",
                                       kHandoverVariable, text));
  }
  Result<HandoverState> state = decode_handover(*bytes);
  if (!state) throw EnvironmentError("cannot take over the server: " + state.error().message);
  set_close_on_exec(descriptors(*state), true);
  return *std::move(state);
}

}  // namespace trireme
