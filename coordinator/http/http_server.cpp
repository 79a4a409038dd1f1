#include "coordinator/http/http_server.h"

#include <fmt/format.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <future>
#include <thread>

#include "coordinator/cluster/tcp_protocol.h"
#include "coordinator/handover/api_state.h"
#include "coordinator/http/api_error.h"
#include "coordinator/http/http_connection.h"
#include "coordinator/http/http_exchange.h"
#include "coordinator/http/http_wire.h"

namespace trireme {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;

constexpr std::chrono::milliseconds kHoldPoll{1};

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
    run();
  }

  void run() {
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

  // ---- a handover ----

  void on_server(const std::function<void()>& task) {
    std::promise<void> done;
    shared_->post([&task, &done] {
      task();
      done.set_value();
    });
    done.get_future().wait();
  }

  void set_holding(Holding holding) {
    on_server([this, holding] {
      shared_->holding = holding;
      beast::error_code ignored;
      acceptor_.cancel(ignored);
      retry_.cancel();
      for_each_connection([](HttpConnection& connection) { connection.hold(); });
    });
  }

  void hold_new_work(std::chrono::milliseconds deadline) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    set_holding(Holding::kNewWork);
    const auto n_reading = [this] {
      int n = 0;
      on_server([&] {
        for_each_connection(
            [&n](HttpConnection& connection) { n += connection.is_reading_request() ? 1 : 0; });
      });
      return n;
    };
    while (n_reading() > 0 && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(kHoldPoll);
    on_server([this] {
      for_each_connection([](HttpConnection& connection) {
        if (connection.is_reading_request()) connection.refuse_held();
      });
    });
  }

  void hold_all() {
    set_holding(Holding::kAll);
    for (bool held = false; !held;) {
      held = true;
      on_server([&] {
        for_each_connection(
            [&held](HttpConnection& connection) { held = held && connection.is_held(); });
      });
    }
  }

  void go_on() {
    set_holding(Holding::kNot);
    on_server([this] { accept(); });
  }

  int n_connections() {
    size_t n = 0;
    on_server([&] { n = shared_->connections.size(); });
    return static_cast<int>(n);
  }

  int listener() {
    int fd = -1;
    on_server([&] { fd = acceptor_.native_handle(); });
    return fd;
  }

  std::vector<ConnectionState> connections() {
    std::vector<ConnectionState> states;
    on_server([&] {
      for_each_connection(
          [&states](HttpConnection& connection) { states.push_back(connection.state()); });
    });
    return states;
  }

  std::map<int, ResponderPtr> take_over(int listener, const std::vector<ConnectionState>& states) {
    shared_->holding = Holding::kAll;
    acceptor_.assign(tcp_protocol_of(listener), listener);
    port_ = acceptor_.local_endpoint().port();
    std::map<int, ResponderPtr> responders;
    for (const ConnectionState& state : states) {
      auto connection = std::make_shared<HttpConnection>(
          asio::ip::tcp::socket(shared_->io, tcp_protocol_of(state.fd), state.fd), shared_);
      connection->take_over(state);
      if (!connection->awaits_answer()) continue;
      responders[state.fd] = std::make_shared<HttpExchange>(
          shared_, connection, connection->serial(), connection->is_streaming());
    }
    run();
    return responders;
  }

 private:
  bool is_holding() const { return shared_->holding != Holding::kNot; }

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
      if (ec == asio::error::operation_aborted && is_holding()) return;
      if (ec) return accept_later();
      if (static_cast<int>(shared_->connections.size()) >=
          shared_->options.limits.max_connections) {
        turn_away(std::move(socket));
      } else {
        std::make_shared<HttpConnection>(std::move(socket), shared_)->start();
      }
      if (!is_holding()) accept();
    });
  }

  // No descriptor or memory for a connection: others may end soon.
  void accept_later() {
    retry_.expires_after(std::chrono::milliseconds(100));
    retry_.async_wait([this](beast::error_code ec) {
      if (!ec && shared_->accepting && !is_holding()) accept();
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

void HttpServer::hold_new_work(std::chrono::milliseconds deadline) {
  state_->hold_new_work(deadline);
}
void HttpServer::hold_all() { state_->hold_all(); }
void HttpServer::go_on() { state_->go_on(); }
void HttpServer::on_server(const std::function<void()>& task) { state_->on_server(task); }
int HttpServer::n_connections() { return state_->n_connections(); }
int HttpServer::listener() { return state_->listener(); }
std::vector<ConnectionState> HttpServer::connections() { return state_->connections(); }
std::map<int, ResponderPtr> HttpServer::take_over(int listener,
                                                  const std::vector<ConnectionState>& states) {
  return state_->take_over(listener, states);
}

}  // namespace trireme
