#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "comm/control/control_codec.h"
#include "comm/control/tls_channel.h"

namespace trireme {

// The coordinator's end of the control connections. A connection is nobody until its first frame is
// a hello with the right secret and build that `on_hello` accepts; until then it may send little,
// has little time, and there are only so many of them. Under TLS it must know the secret before any
// frame of it is looked at. Whatever a stranger sends, no other
// connection notices. Used by the io_context's one thread.
class ControlServer {
 public:
  using ConnectionId = uint64_t;

  enum class HelloVerdict : uint8_t { kAccept, kRefuse, kNotNow };
  struct HelloAnswer {
    HelloVerdict verdict = HelloVerdict::kNotNow;
    std::string reason;  // why it is refused, told to the rank
  };
  struct Handlers {
    std::function<HelloAnswer(ConnectionId, const RankHello&)> on_hello;
    // Bytes came on an accepted connection; before on_frame for the frames that they end.
    std::function<void(ConnectionId)> on_bytes;
    std::function<void(ConnectionId, ControlFrame&&)> on_frame;
    // An accepted connection ended, and not by close().
    std::function<void(ConnectionId, const std::string& why)> on_closed;
  };
  struct Options {
    std::string address;
    uint16_t port = 0;  // 0: any free one
    std::string secret;
    std::string build;
    std::shared_ptr<const TlsContext> tls;  // null: in clear
    int hello_timeout_ms = 5000;
    size_t max_strangers = 64;
    size_t max_queued_bytes = size_t{64} << 20;  // per connection, not yet taken by the network
    int listener = -1;  // an open socket to listen on instead, which becomes this object's
  };

  // An accepted connection between two frames, and between two sessions of TLS where it has those,
  // to be handed over.
  struct Held {
    int fd = -1;
    std::string unread;  // the beginning of a frame
  };

  // Listens. Throws EnvironmentError when it cannot.
  ControlServer(boost::asio::io_context& io, Options options, Handlers handlers);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  boost::asio::ip::tcp::endpoint endpoint() const { return acceptor_.local_endpoint(); }
  uint16_t port() const { return endpoint().port(); }
  size_t n_strangers() const { return strangers_.size(); }

  // One encoded frame, shared by all who get it. Ignored for a connection that is gone.
  void send(ConnectionId id, const std::shared_ptr<const std::string>& frame);
  // Closes at once, without on_closed.
  void close(ConnectionId id);
  // Where an open connection comes from; no address if it broke a moment ago.
  boost::asio::ip::address peer_address(ConnectionId id) const;

  // For a handover (coordinator/handover). No byte is read from now on, until go_on().
  void hold();
  // Whether all that was read has been told and all that was sent is gone.
  bool is_held() const;
  void go_on();
  int listener() { return acceptor_.native_handle(); }
  Held held(ConnectionId id) const;
  // A connection that was accepted before; it becomes this object's.
  ConnectionId take_over(const Held& held);

 private:
  class Connection;

  void listen();
  void accept();
  void add(boost::asio::ip::tcp::socket socket);
  HelloAnswer judge(ConnectionId id, const RankHello& hello) const;
  void accepted(ConnectionId id);
  void ended(ConnectionId id, const std::string& why);

  boost::asio::io_context& io_;
  const Options options_;
  const Handlers handlers_;
  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::steady_timer accept_pause_;
  bool holding_ = false;
  ConnectionId last_id_ = 0;
  std::map<ConnectionId, std::shared_ptr<Connection>> connections_;
  std::list<ConnectionId> strangers_;                           // oldest first
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // of this object, for handlers
};

}  // namespace trireme
