#include "coordinator/cluster/heartbeat_socket.h"

#include <fmt/format.h>

#include <boost/asio/buffer.hpp>
#include <string>
#include <utility>

namespace trireme {
namespace {

namespace asio = boost::asio;
using asio::ip::udp;
using boost::system::error_code;

}  // namespace

Result<std::unique_ptr<HeartbeatSocket>> HeartbeatSocket::open(
    asio::io_context& io, const asio::ip::tcp::endpoint& listener, const SecretKey& key,
    OnHeartbeat on_heartbeat) {
  const udp::endpoint here(listener.address(), listener.port());
  udp::socket socket(io);
  error_code error;
  socket.open(here.protocol(), error);
  if (!error) socket.bind(here, error);
  if (!error) socket.non_blocking(true, error);
  if (error) {
    return Error{fmt::format("no datagrams at {} port {}: {}", here.address().to_string(),
                             here.port(), error.message()),
                 ""};
  }
  return std::unique_ptr<HeartbeatSocket>(
      new HeartbeatSocket(std::move(socket), key, std::move(on_heartbeat)));
}

HeartbeatSocket::HeartbeatSocket(udp::socket socket, const SecretKey& key, OnHeartbeat on_heartbeat)
    : socket_(std::move(socket)), key_(key), on_heartbeat_(std::move(on_heartbeat)) {
  receive();
}

HeartbeatSocket::~HeartbeatSocket() { *alive_ = false; }

void HeartbeatSocket::receive() {
  socket_.async_receive_from(asio::buffer(room_), sender_,
                             [this, alive = alive_](const error_code& error, size_t n_bytes) {
                               if (!*alive || error == asio::error::operation_aborted) return;
                               if (!error) take(n_bytes);
                               if (*alive) receive();
                             });
}

void HeartbeatSocket::take(size_t n_bytes) {
  const std::optional<Heartbeat> heartbeat = open_heartbeat(key_, {room_.data(), n_bytes});
  if (!heartbeat) return;
  const udp::endpoint sender = sender_;
  const std::shared_ptr<bool> alive = alive_;
  if (!on_heartbeat_(*heartbeat) || !*alive) return;
  const std::string answer =
      seal(key_, HeartbeatAnswer{.world_rank = heartbeat->world_rank, .number = heartbeat->number});
  error_code ignored;  // the next one may get through
  socket_.send_to(asio::buffer(answer), sender, 0, ignored);
}

}  // namespace trireme
