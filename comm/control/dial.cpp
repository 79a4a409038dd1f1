#include "comm/control/dial.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

int remaining_ms(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1'000'000'000));
}

// errno of the attempt, 0 when it is connected.
int connect_by(int fd, const addrinfo& to, Clock::time_point deadline) {
  if (connect(fd, to.ai_addr, to.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  pollfd waiting{.fd = fd, .events = POLLOUT, .revents = 0};
  int ready = 0;
  do {
    ready = poll(&waiting, 1, remaining_ms(deadline));
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof(error);
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

void make_blocking_and_prompt(int fd) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  resend_steadily(fd);
}

}  // namespace

void resend_steadily(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, &on, sizeof(on));
}

bool has_one_address(int fd) {
  const auto ip = [fd](auto get_name) -> std::string {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    if (get_name(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "";
    std::array<char, NI_MAXHOST> text{};
    const int failed = getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, text.data(),
                                   text.size(), nullptr, 0, NI_NUMERICHOST);
    return failed == 0 ? text.data() : "";
  };
  return ip(getsockname) == ip(getpeername);
}

Result<HostPort> parse_host_port(std::string_view address) {
  const bool tls = address.starts_with(kTlsScheme);
  if (tls) address.remove_prefix(kTlsScheme.size());
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0) {
    return Error{fmt::format("'{}' is not HOST:PORT", address), "coordinator"};
  }
  std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size() || number == 0) {
    return Error{fmt::format("'{}' in '{}' is not a port (1 to 65535)", port, address),
                 "coordinator"};
  }
  return HostPort{.host = std::string(host), .port = std::string(port), .tls = tls};
}

Result<UniqueFd> dial(const HostPort& to, Clock::time_point deadline) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_family = AF_UNSPEC;
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(to.host.c_str(), to.port.c_str(), &hints, &found);
  if (failed != 0) {
    return Error{fmt::format("host name '{}': {}", to.host, gai_strerror(failed)), ""};
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  int error = EADDRNOTAVAIL;
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    UniqueFd fd(socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) {
      error = errno;
      continue;
    }
    error = connect_by(fd.get(), *a, deadline);
    if (error == 0) {
      make_blocking_and_prompt(fd.get());
      return fd;
    }
  }
  return Error{std::strerror(error), ""};
}

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

}  // namespace trireme
