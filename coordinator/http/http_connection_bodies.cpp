// Bodies that are larger than memory, as a connection takes and sends them.
#include <algorithm>

#include "coordinator/http/http_connection.h"

namespace trireme {

namespace http = boost::beast::http;

// How the body is taken: in memory, or by the route's sink. False when the request was refused.
bool HttpConnection::take_route() {
  const Result<HttpRequest> request = read_head(parser_->get().base());
  const Router::Match match =
      request ? shared_->router.find(request->method, request->path) : Router::Match{};
  const bool has_sinks = match.route != nullptr && match.route->open_sink;
  const uint64_t limit = has_sinks ? match.route->max_sink_bytes : limits_.max_body_bytes;
  if (parser_->content_length().value_or(0) > limit) {
    refuse(parse_failure(http::error::body_limit, limits_.max_header_bytes, limit));
    return false;
  }
  parser_->body_limit(limit);  // of a chunked one
  if (!has_sinks) return true;
  HttpRequest head = *request;
  head.key_name = key_name_;
  sink_ = match.route->open_sink(head);
  return true;
}

// Nothing is read meanwhile. A client that goes on sending has the time for a request anew.
void HttpConnection::hand_over_piece() {
  shared_->pool->post(
      [self = shared_from_this(), sink = sink_, piece = std::exchange(parser_->get().body(), {})] {
        auto refusal = sink->take(piece);
        self->shared_->post(
            [self, sink, refusal = std::move(refusal)] { self->piece_taken(sink.get(), refusal); });
      });
}

void HttpConnection::piece_taken(const BodySink* sink, const std::optional<ApiError>& refusal) {
  if (state_ != State::kReading || sink_.get() != sink) return;  // refused or closed meanwhile
  if (refusal) return refuse(*refusal);
  shared_->buffered_body_bytes.fetch_sub(std::exchange(counted_body_bytes_, 0));
  set_deadline(limits_.request_timeout_ms);
  parse();
}

// The next piece of the body, when the one before is out.
void HttpConnection::read_source() {
  shared_->pool->post([self = shared_from_this(), source = source_,
                       n = std::min<uint64_t>(source_left_bytes_, kPieceBytes)] {
    std::string bytes = source->read(n);
    self->shared_->post(
        [self, source, bytes = std::move(bytes)] { self->source_read(source.get(), bytes); });
  });
}

void HttpConnection::source_read(const BodySource* source, const std::string& bytes) {
  if (source_.get() != source) return;  // closed meanwhile
  if (bytes.empty()) return close();
  source_left_bytes_ -= bytes.size();
  if (source_left_bytes_ == 0) source_.reset();
  send(bytes);
  if (!source_) answer_complete();
}

}  // namespace trireme
