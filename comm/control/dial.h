#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "comm/control/unique_fd.h"
#include "kernels/result.h"

namespace trireme {

inline constexpr std::string_view kTlsScheme = "tls://";

struct HostPort {
  std::string host;
  std::string port;
  bool tls = false;
};

// "host:port", "1.2.3.4:port" or "[::1]:port"; "tls://" before it asks for TLS.
Result<HostPort> parse_host_port(std::string_view address);

// A TCP connection without delay (Nagle off), tried on every address the name has until `deadline`.
// The error says what the last try came to.
Result<UniqueFd> dial(const HostPort& to, std::chrono::steady_clock::time_point deadline);

// Whether both ends of a connection have the same address: they are on one host. (On one host with
// different addresses, as in containers, they need not.)
bool has_one_address(int fd);

// For a connection of small messages: what is lost goes out again at regular intervals, not each
// time after twice as long, as long as little is on its way (Linux: three packets).
void resend_steadily(int fd);

// Sends all of it, waiting as needed; false when the connection is broken. Never raises SIGPIPE.
bool send_all(int fd, std::string_view bytes);

}  // namespace trireme
