#include "coordinator/cluster/control_server.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "comm/control/dial.h"
#include "comm/control/frame_reader.h"
#include "coordinator/cluster/tcp_protocol.h"
#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::milliseconds kAcceptPause{100};

bool equal_in_constant_time(const std::string& a, const std::string& b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

tcp::endpoint listen_endpoint(asio::io_context& io, const ControlServer::Options& options) {
  tcp::resolver resolver(io);
  error_code error;
  const auto found =
      resolver.resolve(options.address, std::to_string(options.port),
                       tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error || found.empty()) {
    throw EnvironmentError(fmt::format("control address '{}': {}; give an address of this host",
                                       options.address, error.message()));
  }
  return found.begin()->endpoint();
}

}  // namespace

// Lives as long as the server knows it or an operation is pending; after detach() it does nothing.
class ControlServer::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(ControlServer& server, ConnectionId id, tcp::socket socket)
      : server_(&server), id_(id), socket_(std::move(socket)), hello_deadline_(server.io_) {
    if (server.options_.tls) tls_.emplace(server.options_.tls);
  }

  void start() {
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    resend_steadily(socket_.native_handle());
    hello_deadline_.expires_after(std::chrono::milliseconds(server_->options_.hello_timeout_ms));
    hello_deadline_.async_wait([self = shared_from_this()](const error_code& error) {
      if (!error && !self->known_) self->fail("no hello in time");
    });
    read();
  }

  void take_over(const std::string& unread) {
    known_ = true;
    if (tls_) begin_session();
    reader_.set_max_payload_bytes(kMaxFrameBytes);
    for (size_t begin = 0; begin < unread.size();) {
      const std::span<char> room = reader_.prepare();
      const size_t n_bytes = std::min(room.size(), unread.size() - begin);
      unread.copy(room.data(), n_bytes, begin);
      reader_.commit(n_bytes);
      begin += n_bytes;
    }
    read();
  }

  // A TLS session ends with it, since its state cannot be handed over.
  void hold() {
    if (tls_ && known_ && session_ == Session::kOpen) {
      send(std::make_shared<const std::string>(encode_frame(ControlRenew{})));
      session_ = Session::kEnding;
      return;
    }
    error_code ignored;
    if (queue_.empty() && !awaits_end()) socket_.cancel(ignored);  // the read
  }

  bool is_held() const { return !reading_ && queue_.empty() && !awaits_end(); }

  void go_on() {
    if (session_ == Session::kEnded) begin_session();
    if (!reading_) read();
  }

  void send(const std::shared_ptr<const std::string>& frame) {
    if (server_ == nullptr) return;
    if (tls_ && (session_ != Session::kOpen || !tls_->established()))
      return for_session_.push_back(frame);
    enqueue(tls_ ? std::make_shared<const std::string>(tls_->encrypt(*frame)) : frame);
  }

  void detach() {
    server_ = nullptr;
    hello_deadline_.cancel();
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_both, ignored);
    socket_.close(ignored);
  }

 private:
  enum class Session : uint8_t { kOpen, kEnding, kEnded };

  // Of the TLS session, by the rank.
  bool awaits_end() const { return session_ == Session::kEnding; }

  void begin_session() {
    session_ = Session::kOpen;
    tls_.emplace(server_->options_.tls);
    enqueue(std::make_shared<const std::string>(1, kRenewByte));
  }

  void enqueue(std::shared_ptr<const std::string> bytes) {
    queued_bytes_ += bytes->size();
    if (queued_bytes_ > server_->options_.max_queued_bytes) {
      // Posted: the sender is in the middle of something.
      asio::post(server_->io_, [self = shared_from_this()] { self->fail("it does not read"); });
      return;
    }
    queue_.push_back(std::move(bytes));
    if (queue_.size() == 1) write();
  }

  void read() {
    if (server_->holding_ && !awaits_end()) return;
    reading_ = true;
    const std::span<char> room = tls_ ? std::span<char>(encrypted_) : reader_.prepare();
    socket_.async_read_some(asio::buffer(room.data(), room.size()),
                            [self = shared_from_this()](const error_code& error, size_t n_bytes) {
                              self->reading_ = false;
                              if (self->server_ == nullptr) return;
                              if (error == asio::error::operation_aborted) return self->read();
                              if (error) return self->fail(self->name(error));
                              self->take(n_bytes);
                            });
  }

  void take(size_t n_bytes) {
    if (known_) server_->handlers_.on_bytes(id_);
    if (tls_) {
      tls_->receive({encrypted_.data(), n_bytes});
      if (!shake_hands()) return;
      for (const auto& frame : std::exchange(for_session_, {})) send(frame);
      while (server_ != nullptr && session_ != Session::kEnded && decrypt()) take_frames();
      if (server_ != nullptr && session_ == Session::kEnded && !server_->holding_) begin_session();
    } else {
      reader_.commit(n_bytes);
      take_frames();
    }
    if (server_ != nullptr) read();
  }

  // False when there is nothing to read yet, or never will be.
  bool shake_hands() {
    if (tls_->established()) return true;
    const bool going_on = tls_->shake_hands();
    const std::string answer = tls_->take_output();
    if (!going_on) {
      write_at_once(answer);
      fail("no TLS connection: " + tls_->problem());
      return false;
    }
    if (!answer.empty()) enqueue(std::make_shared<const std::string>(answer));
    if (!tls_->established()) read();
    return tls_->established();
  }

  // One piece of what came. False when there is no more, or the connection has ended.
  bool decrypt() {
    const std::span<char> room = reader_.prepare();
    size_t n_bytes = 0;
    switch (tls_->read(room, n_bytes)) {
      case TlsChannel::Read::kBytes: reader_.commit(n_bytes); return true;
      case TlsChannel::Read::kNeedMore: return false;
      case TlsChannel::Read::kEnd: fail("its connection ended"); return false;
      case TlsChannel::Read::kFailed:
        fail("its connection broke: " + tls_->problem());
        return false;
    }
    return false;
  }

  void take_frames() {
    std::span<const char> payload;
    while (server_ != nullptr) {
      switch (reader_.next(payload)) {
        case FrameReader::Next::kNeedMore: return;
        case FrameReader::Next::kOversize: return fail("it sent an oversize frame");
        case FrameReader::Next::kFrame: break;
      }
      Result<ControlFrame> frame = decode_frame(payload);
      if (!frame) return fail("it sent a bad frame: " + frame.error().message);
      if (awaits_end() && std::holds_alternative<ControlRenew>(*frame)) {
        session_ = Session::kEnded;
        return;
      }
      if (known_) {
        server_->handlers_.on_frame(id_, std::move(*frame));
      } else {
        const auto* hello = std::get_if<RankHello>(&*frame);
        if (hello == nullptr) return fail("it did not say hello");
        greet(*hello);
      }
    }
  }

  void greet(const RankHello& hello) {
    // Known before the answer: the job may be sent from inside on_hello.
    const HelloAnswer answer = server_->judge(id_, hello);
    if (server_ == nullptr) return;
    if (answer.verdict == HelloVerdict::kAccept) {
      known_ = true;
      hello_deadline_.cancel();
      reader_.set_max_payload_bytes(kMaxFrameBytes);
      server_->accepted(id_);
      return;
    }
    if (answer.verdict == HelloVerdict::kRefuse) {
      const std::string refusal = encode_frame(ControlFailure{.message = answer.reason});
      write_at_once(tls_ ? tls_->encrypt(refusal) : refusal);
    }
    fail("its hello was not accepted");
  }

  // Before the end of the connection. Little, and nearly the first on it: the socket's buffer has
  // room.
  void write_at_once(const std::string& bytes) {
    error_code ignored;
    socket_.non_blocking(true, ignored);
    socket_.write_some(asio::buffer(bytes), ignored);
  }

  void write() {
    asio::async_write(socket_, asio::buffer(*queue_.front()),
                      [self = shared_from_this()](const error_code& error, size_t) {
                        if (self->server_ == nullptr) return;
                        if (error) return self->fail(self->name(error));
                        self->queued_bytes_ -= self->queue_.front()->size();
                        self->queue_.pop_front();
                        if (!self->queue_.empty()) return self->write();
                        if (self->server_->holding_) self->hold();
                      });
  }

  void fail(const std::string& why) {
    if (server_ != nullptr) server_->ended(id_, why);
  }

  static std::string name(const error_code& error) {
    if (error == asio::error::eof) return "its connection ended";
    return "its connection broke: " + error.message();
  }

  ControlServer* server_;  // nullptr once detached
  const ConnectionId id_;
  tcp::socket socket_;
  asio::steady_timer hello_deadline_;
  FrameReader reader_{kMaxHelloBytes};
  std::optional<TlsChannel> tls_;
  std::array<char, size_t{16} << 10> encrypted_;
  bool known_ = false;
  bool reading_ = false;
  Session session_ = Session::kOpen;
  std::vector<std::shared_ptr<const std::string>> for_session_;  // wait for the next one
  std::deque<std::shared_ptr<const std::string>> queue_;         // front: being written
  size_t queued_bytes_ = 0;

  friend class ControlServer;
};

ControlServer::ControlServer(asio::io_context& io, Options options, Handlers handlers)
    : io_(io),
      options_(std::move(options)),
      handlers_(std::move(handlers)),
      acceptor_(io),
      accept_pause_(io) {
  listen();
  accept();
}

void ControlServer::listen() {
  error_code error;
  if (options_.listener >= 0) {
    acceptor_.assign(tcp_protocol_of(options_.listener), options_.listener, error);
    TRIREME_CHECK(!error);
    return;
  }
  const tcp::endpoint endpoint = listen_endpoint(io_, options_);
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(tcp::acceptor::max_listen_connections, error);
  if (error) {
    throw EnvironmentError(
        fmt::format("cannot listen for ranks at {} port {}: {}; choose another port, or an address "
                    "of this host",
                    options_.address, options_.port, error.message()));
  }
}

ControlServer::~ControlServer() {
  *alive_ = false;
  for (auto& [id, connection] : connections_) connection->detach();
}

void ControlServer::accept() {
  acceptor_.async_accept([this, alive = alive_](const error_code& error, tcp::socket socket) {
    if (!*alive) return;
    if (!error) add(std::move(socket));
    if (holding_) return;
    if (!error) return accept();
    // Out of descriptors, most likely: a pause, not a busy loop.
    accept_pause_.expires_after(kAcceptPause);
    accept_pause_.async_wait([this, still = alive_](const error_code&) {
      if (*still && !holding_) accept();
    });
  });
}

void ControlServer::add(tcp::socket socket) {
  // The newest stranger is most likely a rank: those that wait longest give way.
  if (strangers_.size() >= options_.max_strangers) ended(strangers_.front(), "too many strangers");
  const ConnectionId id = ++last_id_;
  auto connection = std::make_shared<Connection>(*this, id, std::move(socket));
  connections_.emplace(id, connection);
  strangers_.push_back(id);
  connection->start();
}

ControlServer::HelloAnswer ControlServer::judge(ConnectionId id, const RankHello& hello) const {
  if (!equal_in_constant_time(hello.secret, options_.secret)) {
    return {.verdict = HelloVerdict::kRefuse,
            .reason = "its TRIREME_SECRET is not the coordinator's: set the same on both"};
  }
  if (hello.build != options_.build) {
    return {.verdict = HelloVerdict::kRefuse,
            .reason = fmt::format("it is trireme {}, the coordinator is {}: install one version "
                                  "everywhere",
                                  hello.build, options_.build)};
  }
  return handlers_.on_hello(id, hello);
}

void ControlServer::accepted(ConnectionId id) { strangers_.remove(id); }

void ControlServer::send(ConnectionId id, const std::shared_ptr<const std::string>& frame) {
  const auto found = connections_.find(id);
  if (found != connections_.end()) found->second->send(frame);
}

void ControlServer::close(ConnectionId id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const std::shared_ptr<Connection> connection = found->second;
  connections_.erase(found);
  strangers_.remove(id);
  connection->detach();
}

boost::asio::ip::address ControlServer::peer_address(ConnectionId id) const {
  error_code error;
  return connections_.at(id)->socket_.remote_endpoint(error).address();
}

void ControlServer::hold() {
  holding_ = true;
  error_code ignored;
  acceptor_.cancel(ignored);
  accept_pause_.cancel();
  for (auto& [id, connection] : connections_) connection->hold();
}

bool ControlServer::is_held() const {
  return std::all_of(connections_.begin(), connections_.end(),
                     [](const auto& entry) { return entry.second->is_held(); });
}

void ControlServer::go_on() {
  if (!std::exchange(holding_, false)) return;
  accept();
  for (auto& [id, connection] : connections_) connection->go_on();
}

ControlServer::Held ControlServer::held(ConnectionId id) const {
  Connection& connection = *connections_.at(id);
  TRIREME_CHECK(connection.is_held());
  const std::span<const char> unread = connection.reader_.unread();
  return {.fd = connection.socket_.native_handle(), .unread = {unread.begin(), unread.end()}};
}

ControlServer::ConnectionId ControlServer::take_over(const Held& held) {
  const ConnectionId id = ++last_id_;
  auto connection =
      std::make_shared<Connection>(*this, id, tcp::socket(io_, tcp_protocol_of(held.fd), held.fd));
  connections_.emplace(id, connection);
  connection->take_over(held.unread);
  return id;
}

void ControlServer::ended(ConnectionId id, const std::string& why) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const bool known = found->second->known_;
  close(id);
  if (known) handlers_.on_closed(id, why);
}

}  // namespace trireme
