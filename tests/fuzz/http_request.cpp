#include <sys/socket.h>

#include <algorithm>
#include <memory>

#include "coordinator/http/http_connection.h"
#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

// What came of a client's bytes.
struct Seen {
  std::vector<std::string> requests;  // that a handler got
  bool long_header = false;           // refused for it
};

// The parser counts a header's bytes by the pieces that they come in, so whether one near the limit
// passes is the cut's affair; nothing else is.
bool agree(const Seen& a, const Seen& b) {
  if (!a.long_header && !b.long_header) return a.requests == b.requests;
  const auto [at_a, at_b] =
      std::mismatch(a.requests.begin(), a.requests.end(), b.requests.begin(), b.requests.end());
  return at_a == a.requests.end() || at_b == b.requests.end();
}

// A connection's own code on one end of a socket pair, on this thread. Small limits, so that inputs
// reach them.
class Server {
 public:
  Server() : shared_(std::make_shared<HttpServerShared>(options(), routes(), nullptr)) {}

  // The client's bytes come in pieces of at most `max_piece`.
  Seen serve(std::string_view input, size_t max_piece, std::string* answer) {
    seen_ = {};
    int ends[2];
    TRIREME_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    boost::asio::ip::tcp::socket socket(shared_->io);
    socket.assign(boost::asio::ip::tcp::v4(), ends[0]);
    std::make_shared<HttpConnection>(std::move(socket), shared_)->start();
    while (!input.empty()) {
      settle(ends[1], answer);
      const ssize_t n = ::send(ends[1], input.data(), std::min(max_piece, input.size()),
                               MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0) break;  // closed by the server
      input.remove_prefix(static_cast<size_t>(n));
    }
    settle(ends[1], answer);
    ::shutdown(ends[1], SHUT_WR);
    settle(ends[1], answer);
    ::close(ends[1]);
    // Nothing of a client stays behind.
    TRIREME_CHECK(shared_->connections.empty());
    TRIREME_CHECK(shared_->buffered_body_bytes == 0);
    TRIREME_CHECK(shared_->n_active_requests == 0);
    return std::move(seen_);
  }

 private:
  HttpServerOptions options() {
    HttpServerOptions options;
    options.limits.max_header_bytes = 1024;
    options.limits.max_body_bytes = 2048;
    options.on_response = [this](const std::string&, int status) {
      seen_.long_header |= status == 431;
      TRIREME_CHECK(status == 200 || (status >= 400 && status <= 499));
    };
    return options;
  }

  std::vector<Route> routes() {
    const HttpHandler answer = [this](const HttpRequest& request, const ResponderPtr& responder) {
      TRIREME_CHECK(request.path.starts_with('/'));
      TRIREME_CHECK(request.path.find('\0') == std::string::npos);
      TRIREME_CHECK(request.body.size() <= shared_->options.limits.max_body_bytes);
      seen_.requests.push_back(request.method + " " + request.path + "?" + request.query + " " +
                               request.content_type + "\n" + request.body);
      responder->reply({.status = 200, .body = "yes"});
    };
    const HttpHandler stream = [this](const HttpRequest&, const ResponderPtr& responder) {
      seen_.requests.emplace_back("stream");
      responder->start_stream();
      responder->write("data: a\n\n");
      responder->finish();
    };
    return {{"POST", "/v1/chat/completions", HandlerCost::kQuick, answer},
            {"GET", "/v1/models/*", HandlerCost::kQuick, answer},
            {"GET", "/stream", HandlerCost::kQuick, stream}};
  }

  // Runs the server until it waits for the client, and takes what it sends.
  void settle(int client, std::string* answer) {
    char bytes[4096];
    for (ssize_t n = 1; n > 0;) {
      shared_->io.restart();
      while (shared_->io.poll() > 0) {
      }
      n = ::recv(client, bytes, sizeof bytes, MSG_DONTWAIT);
      if (n > 0) answer->append(bytes, static_cast<size_t>(n));
    }
  }

  Seen seen_;
  std::shared_ptr<HttpServerShared> shared_;
};

}  // namespace
}  // namespace trireme

// Requests are the same however their bytes are cut, as a proxy in front may cut them. When a
// malformed one is refused is not: the parser may need its end for that.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  static Server server;
  const std::string_view input = fuzz::text_of(data, size);
  std::string whole;
  std::string cut;
  const Seen seen = server.serve(input, input.size() + 1, &whole);
  TRIREME_CHECK(agree(seen, server.serve(input, input.size() / 8 + 1, &cut)));
  TRIREME_CHECK(whole.empty() || whole.starts_with("HTTP/1.1 "));
  TRIREME_CHECK(cut.empty() || cut.starts_with("HTTP/1.1 "));
  return 0;
}
