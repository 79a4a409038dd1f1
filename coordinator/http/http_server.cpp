#include "coordinator/http/http_server.h"

#include <fmt/format.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <future>
#include <thread>

#include "coordinator/http/api_error.h"
#include "coordinator/http/http_connection.h"
#include "coordinator/http/http_wire.h"

namespace trireme {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;

asio::ip::tcp::endpoint resolve(asio::io_context& io, const std::string& host, uint16_t port) {
  beast::error_code ec;
  const asio::ip::address address = asio::ip::make_address(host, ec);
  if (!ec) return {address, port};
  asio::ip::tcp::resolver resolver(io);
  const auto found = resolver.resolve(asio::ip::tcp::v4(), host, std::to_string(port),
                                      asio::ip::tcp::resolver::passive, ec);
  if (ec || found.empty()) {
    throw EnvironmentError(fmt::format(
        "cannot listen on host \"{}\": {}; use an address of this machine, such as 127.0.0.1", host,
        ec.message()));
  }
  return *found.begin();
}

}  // namespace

class HttpServer::State {
 public:
  State(HttpServerOptions options, std::vector<Route> routes, std::shared_ptr<TaskPool> pool)
      : shared_(std::make_shared<HttpServerShared>(std::move(options), std::move(routes),
                                                   std::move(pool))),
        acceptor_(shared_->io),
        retry_(shared_->io),
        work_(shared_->io.get_executor()) {}

  void start() {
    listen();
    accept();
    thread_ = std::thread([this] { shared_->io.run(); });
  }

  uint16_t port() const { return port_; }
  int n_active_requests() const { return shared_->n_active_requests; }

  void set_access(HttpAccess access) {
    shared_->post([this, access = std::move(access)] { shared_->access = access; });
  }

  void stop_accepting() {
    shared_->post([this] {
      shared_->accepting = false;
      beast::error_code ignored;
      acceptor_.close(ignored);
      retry_.cancel();
      for_each_connection([](HttpConnection& connection) { connection.end_after_answer(); });
    });
  }

  void stop() {
    if (!thread_.joinable()) return;
    stop_accepting();
    shared_->post([this] {
      for_each_connection([](HttpConnection& connection) { connection.close(); });
      work_.reset();
      shared_->io.stop();
    });
    thread_.join();
    {
      std::lock_guard lock(shared_->post_mutex);
      shared_->stopped = true;
    }
    // Handlers of aborted operations hold the connections: run them, so that these end here.
    shared_->io.restart();
    shared_->io.poll();
  }

 private:
  void listen() {
    const HttpServerOptions& options = shared_->options;
    const asio::ip::tcp::endpoint endpoint = resolve(shared_->io, options.host, options.port);
    beast::error_code ec;
    acceptor_.open(endpoint.protocol(), ec);
    if (!ec) acceptor_.set_option(asio::socket_base::reuse_address(true), ec);
    if (!ec) acceptor_.bind(endpoint, ec);
    if (!ec) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
    if (ec) {
      beast::error_code ignored;
      acceptor_.close(ignored);
      throw EnvironmentError(
          fmt::format("cannot listen on {} port {}: {}; stop the program that uses it or choose "
                      "another with --port (0: any free one)",
                      options.host, options.port, ec.message()));
    }
    port_ = acceptor_.local_endpoint().port();
  }

  void accept() {
    acceptor_.async_accept([this](beast::error_code ec, asio::ip::tcp::socket socket) {
      if (!shared_->accepting) return;
      if (ec) return accept_later();
      if (static_cast<int>(shared_->connections.size()) >=
          shared_->options.limits.max_connections) {
        turn_away(std::move(socket));
      } else {
        std::make_shared<HttpConnection>(std::move(socket), shared_)->start();
      }
      accept();
    });
  }

  // No descriptor or memory for a connection: others may end soon.
  void accept_later() {
    retry_.expires_after(std::chrono::milliseconds(100));
    retry_.async_wait([this](beast::error_code ec) {
      if (!ec && shared_->accepting) accept();
    });
  }

  void turn_away(asio::ip::tcp::socket socket) {
    if (shared_->options.on_response) shared_->options.on_response("other", 503);
    if (shared_->access.tls) return;  // a handshake is what it cannot have
    const std::string reply = format_reply(
        api_error_response({.status = 503,
                            .message = fmt::format("{} connections are open already",
                                                   shared_->options.limits.max_connections),
                            .param = "",
                            .code = "overloaded",
                            .retry_after_seconds = 1}),
        false);
    beast::error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(reply), ignored);  // a fresh socket takes this much at once
  }

  template <typename F>
  void for_each_connection(F&& f) {
    const std::vector<HttpConnection*> all(shared_->connections.begin(),
                                           shared_->connections.end());
    for (HttpConnection* connection : all) {
      if (shared_->connections.contains(connection)) f(*connection);
    }
  }

  std::shared_ptr<HttpServerShared> shared_;
  asio::ip::tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  uint16_t port_ = 0;
  std::thread thread_;
};

HttpServer::HttpServer(HttpServerOptions options, std::vector<Route> routes,
                       std::shared_ptr<TaskPool> pool)
    : state_(std::make_unique<State>(std::move(options), std::move(routes), std::move(pool))) {}

HttpServer::~HttpServer() { stop(); }

void HttpServer::start() { state_->start(); }
uint16_t HttpServer::port() const { return state_->port(); }
void HttpServer::set_access(HttpAccess access) { state_->set_access(std::move(access)); }
void HttpServer::stop_accepting() { state_->stop_accepting(); }
int HttpServer::n_active_requests() const { return state_->n_active_requests(); }
void HttpServer::stop() { state_->stop(); }

}  // namespace trireme
