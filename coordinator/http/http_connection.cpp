#include "coordinator/http/http_connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <chrono>

#include "coordinator/http/http_exchange.h"
#include "coordinator/http/http_wire.h"
#include "coordinator/http/request_access.h"

namespace trireme {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr size_t kReadBytes = 16U << 10;
// What one read can add: under TLS a record that was incomplete, and those that came after it.
constexpr size_t kReadRoom = 4 * kReadBytes;

}  // namespace

void HttpServerShared::post(std::function<void()> task) {
  std::lock_guard lock(post_mutex);
  if (!stopped) asio::post(io, std::move(task));
}

HttpConnection::HttpConnection(asio::ip::tcp::socket socket,
                               std::shared_ptr<HttpServerShared> shared)
    : socket_(std::move(socket)),
      shared_(std::move(shared)),
      limits_(shared_->options.limits),
      buffer_(limits_.max_header_bytes + kReadBytes + kReadRoom),
      deadline_(shared_->io),
      write_deadline_(shared_->io) {
  if (!shared_->access.tls) return;
  tls_.emplace(shared_->access.tls);
  encrypted_.resize(kReadBytes);
}

void HttpConnection::start() {
  shared_->connections.insert(this);
  beast::error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  if (!tls_) return next_request();
  state_ = State::kShakingHands;
  set_deadline(limits_.request_timeout_ms);
  read_some();
}

void HttpConnection::end_after_answer() {
  end_after_answer_ = true;
  if (state_ == State::kIdle || state_ == State::kShakingHands) close();
}

void HttpConnection::close() {
  if (state_ == State::kClosed) return;
  const auto self = shared_from_this();
  kept_.reset();
  if (state_ == State::kAnswering) shared_->n_active_requests.fetch_sub(1);
  state_ = State::kClosed;
  ++serial_;
  source_.reset();
  release_body();
  shared_->connections.erase(this);
  deadline_.cancel();
  write_deadline_.cancel();
  beast::error_code ignored;
  socket_.close(ignored);
  if (on_disconnect_) std::exchange(on_disconnect_, nullptr)();
}

// ---- reading ----

void HttpConnection::next_request() {
  if (end_after_answer_) return linger();
  state_ = State::kIdle;
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(limits_.max_header_bytes));
  parser_->body_limit(std::max<uint64_t>(limits_.max_body_bytes, shared_->max_sink_bytes));
  head_taken_ = false;
  head_lines_ = {};
  n_checked_bytes_ = 0;
  if (buffer_.size() > 0 && shared_->holding == Holding::kNot) {  // pipelined
    state_ = State::kReading;
    set_deadline(limits_.request_timeout_ms);
    return parse();
  }
  set_deadline(limits_.idle_timeout_ms);
  read_some();
}

void HttpConnection::read_some() {
  if (read_pending_) return;
  if (!may_read()) {
    kept_ = shared_from_this();
    return;
  }
  read_pending_ = true;
  const auto room = tls_ ? asio::buffer(encrypted_) : buffer_.prepare(kReadBytes);
  socket_.async_read_some(room, [self = shared_from_this()](beast::error_code ec, size_t n_bytes) {
    self->on_read(ec, n_bytes);
  });
}

void HttpConnection::on_read(beast::error_code ec, size_t n_bytes) {
  read_pending_ = false;
  if (state_ == State::kClosed) return;
  if (ec == asio::error::operation_aborted) return read_some();  // by hold()
  if (ec) return close();
  if (tls_ && state_ != State::kLingering) {
    if (!take_encrypted(n_bytes)) return;
  } else if (!tls_) {
    buffer_.commit(n_bytes);
  }
  switch (state_) {
    case State::kIdle:
      state_ = State::kReading;
      set_deadline(limits_.request_timeout_ms);
      return parse();
    case State::kReading: return parse();
    case State::kLingering: buffer_.clear(); return read_some();
    default: return;  // a pipelined request waits in buffer_ for its turn
  }
}

void HttpConnection::parse() {
  while (buffer_.size() > 0 && !parser_->is_done()) {
    beast::error_code ec;
    if (!parser_->is_header_done() && !check_lines()) return;
    const size_t used = parser_->put(buffer_.data(), ec);
    buffer_.consume(used);
    n_checked_bytes_ -= std::min(n_checked_bytes_, used);
    if (ec && ec != http::error::need_more) {
      return refuse(parse_failure(ec, limits_.max_header_bytes, limits_.max_body_bytes));
    }
    if (parser_->is_header_done() && !head_taken_ && !take_head()) return;
    if (!count_body()) return;
    if (sink_ && parser_->get().body().size() >= kPieceBytes) return hand_over_piece();
    if (ec == http::error::need_more) break;
  }
  if (parser_->is_done()) {
    return sink_ && !parser_->get().body().empty() ? hand_over_piece() : dispatch();
  }
  // Only a chunk's extensions or trailers can fill the buffer: the header has its own limit.
  if (buffer_.size() + kReadRoom > buffer_.max_size()) {
    return refuse(parse_failure(http::error::buffer_overflow, limits_.max_header_bytes, 0));
  }
  read_some();
}

// Before the parser, which takes each field as soon as it has come. False when the request was
// refused.
bool HttpConnection::check_lines() {
  const std::string_view text(static_cast<const char*>(buffer_.data().data()), buffer_.size());
  const std::string_view added = text.substr(n_checked_bytes_);
  n_checked_bytes_ = text.size();
  if (head_lines_.take(added)) return true;
  refuse({.status = 400,
          .message = "malformed HTTP request: each line of its head must end in CR LF, and each "
                     "field must be on one line",
          .param = "",
          .code = ""});
  return false;
}

// Once per request, between header and body. False when the request was refused.
bool HttpConnection::take_head() {
  head_taken_ = true;
  const auto& head = parser_->get();
  keep_alive_ = head.keep_alive();
  chunked_ = head.version() >= 11;
  if (const std::optional<ApiError> error = check_head(head.base(), head.version())) {
    refuse(*error);
    return false;
  }
  // Before the body: who has no key makes nothing grow.
  if (const std::optional<ApiError> error =
          check_access(head.base(), shared_->router, shared_->access, &key_name_)) {
    refuse(*error);
    return false;
  }
  if (!take_route()) return false;
  parser_->eager(true);
  if (!head[http::field::expect].empty() && !parser_->is_done()) {
    send("HTTP/1.1 100 Continue\r\n\r\n");
  }
  return true;
}

// Bodies of all connections share one bound. False when the request was refused.
bool HttpConnection::count_body() {
  const size_t size_bytes = parser_->get().body().size();
  const size_t grown_bytes = size_bytes - counted_body_bytes_;
  const size_t total_bytes = shared_->buffered_body_bytes.fetch_add(grown_bytes) + grown_bytes;
  counted_body_bytes_ = size_bytes;
  if (total_bytes <= limits_.max_buffered_body_bytes) return true;
  refuse(ApiError{.status = 503,
                  .message = fmt::format("request bodies waiting here already take {} bytes",
                                         limits_.max_buffered_body_bytes),
                  .param = "",
                  .code = "overloaded",
                  .retry_after_seconds = 1});
  return false;
}

void HttpConnection::release_body() {
  shared_->buffered_body_bytes.fetch_sub(std::exchange(counted_body_bytes_, 0));
  sink_.reset();
  parser_.reset();
}

void HttpConnection::dispatch() {
  Result<HttpRequest> taken = take_request(*parser_);
  if (!taken)
    return refuse({.status = 400, .message = taken.error().message, .param = "", .code = ""});
  HttpRequest request = std::move(*taken);
  request.key_name = key_name_;
  request.sink = std::exchange(sink_, nullptr);
  if (shared_->options.on_request) shared_->options.on_request(request);
  request.body_lease =
      std::shared_ptr<void>(nullptr, [shared = shared_, n = std::exchange(counted_body_bytes_, 0)](
                                         void*) { shared->buffered_body_bytes.fetch_sub(n); });
  parser_.reset();
  deadline_.cancel();
  state_ = State::kAnswering;
  answer_complete_ = false;
  streaming_ = false;
  shared_->n_active_requests.fetch_add(1);
  Router::Match match = shared_->router.find(request.method, request.path);
  route_label_ = match.label;
  auto exchange = std::make_shared<HttpExchange>(shared_, shared_from_this(), ++serial_);
  if (buffer_.size() == 0) read_some();  // to see the client go
  if (match.route == nullptr) {
    HttpResponse response = error_response_at(
        request.path, {.status = match.status,
                       .message = match.status == 404 ? fmt::format("there is no {}", request.path)
                                                      : fmt::format("{} takes {} only",
                                                                    request.path, match.allowed),
                       .param = "",
                       .code = match.status == 404 ? "unknown_path" : "method_not_allowed"});
    if (match.status == 405) response.headers.emplace_back("Allow", match.allowed);
    return exchange->reply(std::move(response));
  }
  request.path_tail = std::move(match.path_tail);
  // Routes live as long as shared_, which the exchange keeps.
  auto run = [route = match.route, request = std::move(request), exchange]() mutable {
    HttpExchange::run_handler(*route, std::move(request), std::move(exchange));
  };
  if (match.route->cost == HandlerCost::kQuick) return run();
  shared_->pool->post(std::move(run));
}

// An answer before the request was read whole: what follows on this connection means nothing.
void HttpConnection::refuse(const ApiError& error) {
  // An error while its line has not come.
  const Result<std::string> path =
      parser_ ? request_path(parser_->get().base()) : Result<std::string>(std::string());
  release_body();
  state_ = State::kAnswering;
  shared_->n_active_requests.fetch_add(1);
  answer_complete_ = false;
  streaming_ = false;
  route_label_ = "other";
  end_after_answer_ = true;
  reply(++serial_, error_response_at(path ? *path : "", error));
}

// ---- answering ----

bool HttpConnection::is_current(uint64_t serial) const {
  return state_ == State::kAnswering && serial == serial_ && !answer_complete_;
}

void HttpConnection::reply(uint64_t serial, const HttpResponse& response) {
  if (!is_current(serial) || streaming_ || source_) return;
  if (!shared_->accepting || !keep_alive_) end_after_answer_ = true;
  if (shared_->options.on_response) shared_->options.on_response(route_label_, response.status);
  source_left_bytes_ = response.source ? response.source->size_bytes() : 0;
  if (source_left_bytes_ > 0) source_ = response.source;
  send(format_reply(response, !end_after_answer_));
  if (!source_) answer_complete();
}

void HttpConnection::start_stream(uint64_t serial) {
  if (!is_current(serial) || streaming_) return;
  streaming_ = true;
  if (!shared_->accepting || !keep_alive_ || !chunked_) end_after_answer_ = true;
  if (shared_->options.on_response) shared_->options.on_response(route_label_, 200);
  send(format_stream_head(chunked_, !end_after_answer_));
}

void HttpConnection::write(uint64_t serial, std::string_view bytes) {
  if (!is_current(serial) || !streaming_) return;
  send(chunked_ ? format_chunk(bytes) : bytes);
  // A client that does not read must not make this process grow.
  if (queued_.size() + writing_.size() - written_ > limits_.max_outgoing_bytes) close();
}

void HttpConnection::finish(uint64_t serial) {
  if (!is_current(serial) || !streaming_) return;
  if (chunked_) send(kLastChunk);
  answer_complete();
}

void HttpConnection::on_disconnect(uint64_t serial, std::function<void()> handler) {
  if (is_current(serial)) {
    on_disconnect_ = std::move(handler);
  } else if (serial != serial_) {  // closed, or on to the next request
    handler();
  }
}

void HttpConnection::answer_complete() {
  answer_complete_ = true;
  on_disconnect_ = nullptr;
  if (writing_.empty()) answer_sent();
}

void HttpConnection::answer_sent() {
  shared_->n_active_requests.fetch_sub(1);
  end_after_answer_ ? linger() : next_request();
}

// A close with unread bytes would reset the connection and take the answer with it; so the client
// gets a while to read it first.
void HttpConnection::linger() {
  state_ = State::kLingering;
  if (tls_) write_at_once(tls_->close());
  beast::error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  set_deadline(limits_.linger_timeout_ms);
  buffer_.clear();
  read_some();
}

// ---- writing ----

void HttpConnection::send(std::string_view bytes) {
  queued_ += bytes;
  if (writing_.empty()) write_some();
}

void HttpConnection::write_some() {
  if (writing_.empty()) {
    if (tls_) {
      writing_ = tls_->encrypt(queued_);
      queued_.clear();
      if (writing_.empty()) return;  // broken, which its next read shows
    } else {
      writing_.swap(queued_);
    }
    written_ = 0;
  }
  set_write_deadline();
  if (shared_->holding == Holding::kAll) {
    kept_ = shared_from_this();
    return;
  }
  write_pending_ = true;
  socket_.async_write_some(asio::buffer(writing_.data() + written_, writing_.size() - written_),
                           [self = shared_from_this()](beast::error_code ec, size_t n_bytes) {
                             self->on_written(ec, n_bytes);
                           });
}

void HttpConnection::on_written(beast::error_code ec, size_t n_bytes) {
  write_pending_ = false;
  if (state_ == State::kClosed) return;
  written_ += n_bytes;
  if (ec == asio::error::operation_aborted) return write_some();  // by hold()
  if (ec) return close();
  if (written_ < writing_.size()) return write_some();
  writing_.clear();
  if (!queued_.empty() || (tls_ && tls_->has_output())) return write_some();
  write_deadline_.cancel();
  if (source_) return read_source();
  if (state_ == State::kAnswering && answer_complete_) answer_sent();
}

// ---- deadlines ----

void HttpConnection::set_deadline(int timeout_ms) {
  deadline_.expires_after(std::chrono::milliseconds(timeout_ms));
  deadline_.async_wait([weak = weak_from_this()](beast::error_code ec) {
    const auto self = weak.lock();
    if (!ec && self) self->on_deadline();
  });
}

void HttpConnection::on_deadline() {
  if (deadline_.expiry() > std::chrono::steady_clock::now()) return;  // was set anew
  switch (state_) {
    case State::kShakingHands:
    case State::kIdle:
    case State::kLingering: return close();
    case State::kReading:
      return refuse({.status = 408,
                     .message = fmt::format("the request was not complete after {} ms",
                                            limits_.request_timeout_ms),
                     .param = "",
                     .code = "request_timeout"});
    default: return;
  }
}

void HttpConnection::set_write_deadline() {
  write_deadline_.expires_after(std::chrono::milliseconds(limits_.write_timeout_ms));
  write_deadline_.async_wait([weak = weak_from_this()](beast::error_code ec) {
    const auto self = weak.lock();
    if (!ec && self && self->write_deadline_.expiry() <= std::chrono::steady_clock::now()) {
      self->close();
    }
  });
}

}  // namespace trireme
