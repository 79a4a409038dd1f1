#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/control/tls_channel.h"
#include "coordinator/http/api_keys.h"
#include "coordinator/http/http_message.h"
#include "coordinator/http/task_pool.h"

namespace trireme {

// Everything a client can make grow or wait is bounded here.
struct HttpLimits {
  size_t max_header_bytes = 64U << 10;          // then 431
  size_t max_body_bytes = 32U << 20;            // then 413
  size_t max_buffered_body_bytes = 256U << 20;  // of all requests together, then 503
  size_t max_outgoing_bytes = 4U << 20;         // of one stream, then the client is cut
  int max_connections = 1024;                   // then 503 and closed
  int request_timeout_ms = 30000;               // first byte to last byte, then 408; TLS handshake
  int idle_timeout_ms = 75000;                  // between requests
  int write_timeout_ms = 30000;                 // without a byte taken, then the client is cut
  int linger_timeout_ms = 2000;                 // for a refused client to read its refusal
};

// Who may use a server, and how they reach it.
struct HttpAccess {
  ApiKeys keys;                           // none: everybody who reaches the port
  bool protect_metrics = false;           // routes of kMetrics need a key too
  std::shared_ptr<const TlsContext> tls;  // null: plain HTTP
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // an address, or a name that has one
  uint16_t port = 0;               // 0: any free port
  HttpLimits limits;
  HttpAccess access;
  // Each request that may go on, before its handler. On the server's thread.
  std::function<void(const HttpRequest& request)> on_request;
  // After each response's status is known; `route` is one of the table's paths or "other". On the
  // server's thread.
  std::function<void(const std::string& route, int status)> on_response;
};

// HTTP/1.1 on one thread of its own, with keep-alive, over a table of routes.
class HttpServer {
 public:
  HttpServer(HttpServerOptions options, std::vector<Route> routes, std::shared_ptr<TaskPool> pool);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Listens and serves. Throws EnvironmentError when the address cannot be had.
  void start();
  uint16_t port() const;
  // From the next request and connection on.
  void set_access(HttpAccess access);
  // Takes no new connections, closes idle ones; the others end with their current answer.
  void stop_accepting();
  // Requests whose answer is not complete.
  int n_active_requests() const;
  // Closes every connection and ends the thread. Idempotent.
  void stop();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
