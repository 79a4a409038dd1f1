#include "coordinator/admin/admin_line.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace trireme {
namespace {

constexpr size_t kMaxLineBytes = 64 << 10;
constexpr int kWriteTimeoutMs = 5000;

bool wait_for(int fd, short events, int timeout_ms) {
  pollfd entry{fd, events, 0};
  return poll(&entry, 1, timeout_ms) > 0;
}

}  // namespace

std::optional<std::string> AdminLines::read(Deadline deadline) {
  for (;;) {
    const size_t end = pending_.find('\n');
    if (end != std::string::npos) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return line;
    }
    if (pending_.size() > kMaxLineBytes) return std::nullopt;
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    const auto timeout_ms = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1 << 30));
    if (!wait_for(fd(), POLLIN, timeout_ms)) return std::nullopt;
    std::array<char, 4096> buffer{};
    const ssize_t n = recv(fd(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n <= 0) return std::nullopt;
    pending_.append(buffer.data(), static_cast<size_t>(n));
  }
}

bool AdminLines::write(const std::string& line) {
  const std::string bytes = line + "\n";
  size_t n_sent = 0;
  while (n_sent < bytes.size()) {
    if (!wait_for(fd(), POLLOUT, kWriteTimeoutMs)) return false;
    const ssize_t n =
        send(fd(), bytes.data() + n_sent, bytes.size() - n_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) return false;
    n_sent += static_cast<size_t>(n);
  }
  return true;
}

std::string admin_result(const std::string& text) {
  return nlohmann::json{{"result", text}}.dump(-1, ' ', true,
                                               nlohmann::json::error_handler_t::replace);
}

std::string admin_socket_path(const UniqueFd& folder) {
  return fmt::format("/proc/self/fd/{}/admin", folder.get());
}

}  // namespace trireme
