#include "coordinator/http/http_exchange.h"

#include <spdlog/spdlog.h>

#include "coordinator/http/api_error.h"

namespace trireme {
namespace {

HttpResponse internal_error(std::string_view path) {
  return error_response_at(path, {.status = 500,
                                  .message = "the server failed on this request; see its log",
                                  .param = "",
                                  .code = "internal_error"});
}

}  // namespace

HttpExchange::~HttpExchange() {
  if (answered_) return;
  shared_->post([connection = connection_, serial = serial_] {
    connection->reply(serial, internal_error(connection->route_label()));
  });
}

void HttpExchange::reply(HttpResponse response) {
  answered_ = true;
  shared_->post([connection = connection_, serial = serial_, response = std::move(response)] {
    connection->reply(serial, response);
  });
}

void HttpExchange::start_stream() {
  answered_ = true;
  shared_->post([connection = connection_, serial = serial_] { connection->start_stream(serial); });
}

void HttpExchange::write(std::string bytes) {
  shared_->post([connection = connection_, serial = serial_, bytes = std::move(bytes)] {
    connection->write(serial, bytes);
  });
}

void HttpExchange::finish() {
  shared_->post([connection = connection_, serial = serial_] { connection->finish(serial); });
}

void HttpExchange::on_disconnect(std::function<void()> handler) {
  shared_->post([connection = connection_, serial = serial_, handler = std::move(handler)] {
    connection->on_disconnect(serial, handler);
  });
}

void HttpExchange::run_handler(const Route& route, HttpRequest request,
                               std::shared_ptr<HttpExchange> exchange) {
  try {
    route.handler(std::move(request), exchange);
  } catch (const std::exception& error) {
    spdlog::error("{} {}: {}", route.method, route.path, error.what());
    exchange->reply(
        internal_error(route.path));  // nothing, when a stream has begun: it ends with the client
  }
}

}  // namespace trireme
