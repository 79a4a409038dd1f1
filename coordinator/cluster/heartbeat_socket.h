#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/udp.hpp>
#include <functional>
#include <memory>

#include "comm/control/heartbeat_datagram.h"
#include "kernels/result.h"

namespace trireme {

// Where the datagrams of the ranks of one launch arrive: at the address and port of the listener
// that they dial. What is not theirs is dropped without a word. Used by the io_context's one
// thread.
class HeartbeatSocket {
 public:
  // True: it is new and of a rank that is connected, and is to be answered.
  using OnHeartbeat = std::function<bool(const Heartbeat&)>;

  // `listener`: where the ranks dial. An error when that port is taken for datagrams.
  static Result<std::unique_ptr<HeartbeatSocket>> open(
      boost::asio::io_context& io, const boost::asio::ip::tcp::endpoint& listener,
      const SecretKey& key, OnHeartbeat on_heartbeat);
  ~HeartbeatSocket();
  HeartbeatSocket(const HeartbeatSocket&) = delete;
  HeartbeatSocket& operator=(const HeartbeatSocket&) = delete;

 private:
  HeartbeatSocket(boost::asio::ip::udp::socket socket, const SecretKey& key,
                  OnHeartbeat on_heartbeat);
  void receive();
  void take(size_t n_bytes);

  boost::asio::ip::udp::socket socket_;
  boost::asio::ip::udp::endpoint sender_;
  const SecretKey key_;
  const OnHeartbeat on_heartbeat_;
  std::array<char, kMaxDatagramBytes + 1> room_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // of this object, for handlers
};

}  // namespace trireme
