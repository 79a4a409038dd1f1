#pragma once

#include <atomic>
#include <memory>

#include "coordinator/http/http_connection.h"

// Private to coordinator/http: includes Boost.

namespace trireme {

// The responder of one request: brings every call to the server's thread, in order. Keeps the
// connection, which has no operation of its own pending while it waits for an answer.
class HttpExchange final : public Responder {
 public:
  HttpExchange(std::shared_ptr<HttpServerShared> shared, std::shared_ptr<HttpConnection> connection,
               uint64_t serial)
      : shared_(std::move(shared)), connection_(std::move(connection)), serial_(serial) {}
  // `answered`: the connection has the answer's beginning already.
  HttpExchange(std::shared_ptr<HttpServerShared> shared, std::shared_ptr<HttpConnection> connection,
               uint64_t serial, bool answered)
      : HttpExchange(std::move(shared), std::move(connection), serial) {
    answered_ = answered;
  }
  ~HttpExchange() override;

  void reply(HttpResponse response) override;
  void start_stream() override;
  void write(std::string bytes) override;
  void finish() override;
  void on_disconnect(std::function<void()> handler) override;
  int descriptor() const override { return connection_->descriptor(); }

  // Runs a handler; what it throws becomes a 500.
  static void run_handler(const Route& route, HttpRequest request,
                          std::shared_ptr<HttpExchange> exchange);

 private:
  const std::shared_ptr<HttpServerShared> shared_;
  const std::shared_ptr<HttpConnection> connection_;
  const uint64_t serial_;
  std::atomic<bool> answered_{false};
};

}  // namespace trireme
