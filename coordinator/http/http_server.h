#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/control/tls_channel.h"
#include "coordinator/http/api_keys.h"
#include "coordinator/http/http_message.h"
#include "coordinator/http/task_pool.h"

namespace trireme {

struct ConnectionState;

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

  // ---- a handover to another program in this process (coordinator/handover) ----
  // No connection is taken and no request begun any more; waits for those half read, up to the
  // deadline, and refuses the rest with 503. Connections under TLS are closed after their answer.
  void hold_new_work(std::chrono::milliseconds deadline);
  // And then no byte is read or written.
  void hold_all();
  void go_on();
  // Runs `task` on the server's thread, when all that was posted before has run.
  void on_server(const std::function<void()>& task);
  int n_connections();
  // After hold_all().
  int listener();
  std::vector<ConnectionState> connections();
  // Instead of start(): a listening socket and connections, which become this server's. Gives the
  // responder of each that awaits its answer, by its descriptor. No byte moves before go_on().
  std::map<int, ResponderPtr> take_over(int listener, const std::vector<ConnectionState>& states);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
