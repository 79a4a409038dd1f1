#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trireme {

struct ApiError;

// Takes one request's body as it comes: for what may be larger than memory. Its calls are made on
// handler threads, one after the other. Gone without its request: the client went, or was refused.
class BodySink {
 public:
  virtual ~BodySink() = default;
  // Why the rest need not come, or nothing.
  virtual std::optional<ApiError> take(std::string_view bytes) = 0;
};

// A response's body that is read as it goes out. Its calls are made on handler threads, one after
// the other.
class BodySource {
 public:
  virtual ~BodySource() = default;
  virtual uint64_t size_bytes() const = 0;
  // The next bytes, at most so many; none when they cannot be had: then the client is cut.
  virtual std::string read(size_t max_bytes) = 0;
};

// How many bytes of an inference's body, or of its answer, are JSON: the first ones.
inline constexpr const char* kInferHeaderLength = "Inference-Header-Content-Length";

// One request, completely read.
struct HttpRequest {
  std::string method;
  std::string path;       // percent-decoded, without the query
  std::string query;      // raw, without '?'
  std::string path_tail;  // what a route ending in "/*" matched in its place
  std::string content_type;
  std::string accept;
  std::string last_event_id;
  std::string infer_header_length;  // raw, of an inference whose body has binary tensors
  std::string body;
  std::string key_name;  // of the API key that came with it; "" where none is needed
  std::shared_ptr<void>
      body_lease;                  // its release gives the body's bytes back to the server's bound
  std::shared_ptr<BodySink> sink;  // has the body, where the route has sinks
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;  // besides length, type and connection
  std::shared_ptr<BodySource> source;                        // of the body, in place of `body`
};

// Answers one request: one reply, or a stream of server-sent events. Thread-safe; calls take effect
// in order. Dropping it without an answer sends a 500.
class Responder {
 public:
  virtual ~Responder() = default;
  virtual void reply(HttpResponse response) = 0;
  // Status 200 and the event-stream headers. write() and finish() may follow; reply() may not.
  virtual void start_stream() = 0;
  // `bytes` go out as they are ("data: ...\n\n"). A client that does not read is cut when what
  // waits for it passes the server's bound: then the disconnect handler runs.
  virtual void write(std::string bytes) = 0;
  virtual void finish() = 0;
  // Called at most once, on the server's thread, when the client goes before the answer is
  // complete; at once when it is already gone. Must not block.
  virtual void on_disconnect(std::function<void()> handler) = 0;
  // Of the client's connection, for a handover (coordinator/handover); -1: it is gone.
  virtual int descriptor() const { return -1; }
};
using ResponderPtr = std::shared_ptr<Responder>;

using HttpHandler = std::function<void(HttpRequest request, ResponderPtr responder)>;

// Where a handler runs. Quick ones run on the server's one thread and must not wait or compute
// long; others run on the handler threads.
enum class HandlerCost : uint8_t { kQuick, kHeavy };

// Who may ask, on a server with API keys.
enum class RouteAccess : uint8_t {
  kKey,      // clients with a key
  kMetrics,  // everybody, unless the server is told to protect its metrics
  kOpen,     // everybody: probes
};

// One endpoint. A path that ends in "/*" matches everything below it; "*" in its middle is whatever
// is there, with slashes or without. The first of several that match is taken.
struct Route {
  std::string method;
  std::string path;
  HandlerCost cost = HandlerCost::kQuick;
  HttpHandler handler;
  RouteAccess access = RouteAccess::kKey;
  // For a body that is taken as it comes, in place of one in memory; `head` has no body. On the
  // server's thread; empty: none.
  std::function<std::shared_ptr<BodySink>(const HttpRequest& head)> open_sink;
  uint64_t max_sink_bytes = 0;  // of such a body, then 413
};

}  // namespace trireme
