#pragma once

#include <sys/socket.h>

#include <boost/asio/ip/tcp.hpp>

// Includes Boost.

namespace trireme {

// Of an open socket: IPv4 or IPv6.
inline boost::asio::ip::tcp tcp_protocol_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  const bool known = getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  return known && address.ss_family == AF_INET6 ? boost::asio::ip::tcp::v6()
                                                : boost::asio::ip::tcp::v4();
}

}  // namespace trireme
