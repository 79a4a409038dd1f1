// A connection between two coordinators of one process.
#include "coordinator/handover/api_state.h"
#include "coordinator/http/http_connection.h"
#include "kernels/check.h"

namespace trireme {

namespace asio = boost::asio;
namespace beast = boost::beast;

bool HttpConnection::may_read() const {
  switch (shared_->holding) {
    case Holding::kNot: return true;
    case Holding::kNewWork: return state_ != State::kIdle;
    case Holding::kAll: return false;
  }
  return false;
}

void HttpConnection::hold() {
  if (state_ == State::kClosed) return;
  beast::error_code ignored;
  switch (shared_->holding) {
    case Holding::kNot: return go_on();
    case Holding::kNewWork:
      if (tls_) return end_after_answer();
      if (state_ == State::kIdle) socket_.cancel(ignored);  // nothing is written to it
      return;
    case Holding::kAll:
      if (source_) return close();  // the rest of a file is nothing that could be handed over
      socket_.cancel(ignored);
      return;
  }
}

void HttpConnection::go_on() {
  const auto self = std::exchange(kept_, nullptr);
  if (!writing_.empty() && !write_pending_) write_some();
  if (buffer_.size() == 0 || state_ == State::kLingering) return read_some();
  if (state_ == State::kIdle) next_request();  // else it waits for its turn
}

void HttpConnection::refuse_held() {
  refuse({.status = 503,
          .message = "the server is being upgraded; send the request again",
          .param = "",
          .code = "upgrading",
          .retry_after_seconds = 1});
}

ConnectionState HttpConnection::state() const {
  TRIREME_CHECK(is_held() && !tls_ && !is_reading_request());
  ConnectionState state;
  state.fd = descriptor();
  state.phase = state_ == State::kIdle        ? ConnectionState::Phase::kIdle
                : state_ == State::kAnswering ? ConnectionState::Phase::kAnswering
                                              : ConnectionState::Phase::kLingering;
  state.unread.assign(static_cast<const char*>(buffer_.data().data()), buffer_.size());
  if (!writing_.empty()) state.unsent = writing_.substr(written_);
  state.unsent += queued_;
  state.route_label = route_label_;
  state.key_name = key_name_;
  state.keep_alive = keep_alive_;
  state.chunked = chunked_;
  state.streaming = streaming_;
  state.answer_complete = answer_complete_;
  state.end_after_answer = end_after_answer_;
  return state;
}

void HttpConnection::take_over(const ConnectionState& state) {
  shared_->connections.insert(this);
  const auto room = buffer_.prepare(state.unread.size());
  state.unread.copy(static_cast<char*>(room.data()), state.unread.size());
  buffer_.commit(state.unread.size());
  route_label_ = state.route_label;
  key_name_ = state.key_name;
  keep_alive_ = state.keep_alive;
  chunked_ = state.chunked;
  streaming_ = state.streaming;
  answer_complete_ = state.answer_complete;
  end_after_answer_ = state.end_after_answer;
  switch (state.phase) {
    case ConnectionState::Phase::kIdle: return next_request();
    case ConnectionState::Phase::kLingering:
      state_ = State::kLingering;
      set_deadline(limits_.linger_timeout_ms);
      return read_some();
    case ConnectionState::Phase::kAnswering: break;
  }
  state_ = State::kAnswering;
  ++serial_;
  shared_->n_active_requests.fetch_add(1);
  if (buffer_.size() == 0) read_some();
  if (!state.unsent.empty()) return send(state.unsent);
  if (answer_complete_) answer_sent();
}

}  // namespace trireme
