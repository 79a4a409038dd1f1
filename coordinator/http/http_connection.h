#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "coordinator/http/http_request_head.h"
#include "coordinator/http/http_server.h"
#include "coordinator/http/router.h"

// Private to coordinator/http: includes Boost.

namespace trireme {

class HttpConnection;
struct ConnectionState;

// How much of a handover (coordinator/handover) has begun.
enum class Holding : uint8_t {
  kNot,
  kNewWork,  // no connection is taken and no request begun; one that is half read may be completed
  kAll,      // no byte is read or written
};

// What the connections of one server share. Lives as long as any of them.
struct HttpServerShared {
  HttpServerShared(HttpServerOptions server_options, std::vector<Route> routes,
                   std::shared_ptr<TaskPool> task_pool)
      : options(std::move(server_options)),
        access(options.access),
        router(std::move(routes)),
        max_sink_bytes(router.max_sink_bytes()),
        pool(std::move(task_pool)) {}

  const HttpServerOptions options;
  HttpAccess access;  // the server's thread only
  const Router router;
  const uint64_t max_sink_bytes;
  const std::shared_ptr<TaskPool> pool;
  boost::asio::io_context io{1};
  std::unordered_set<HttpConnection*> connections;  // the server's thread only
  bool accepting = true;                            // the server's thread only
  Holding holding = Holding::kNot;                  // the server's thread only
  std::atomic<size_t> buffered_body_bytes{0};
  std::atomic<int> n_active_requests{0};

  // Runs `task` on the server's thread; drops it once the server has stopped.
  void post(std::function<void()> task);
  std::mutex post_mutex;
  bool stopped = false;  // under post_mutex
};

// One client. Everything on the server's thread. It reads a request, waits for its answer while
// watching for the client's end, and goes on with the next.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(boost::asio::ip::tcp::socket socket, std::shared_ptr<HttpServerShared> shared);
  void start();
  // No further request: closes now when idle, else after the current answer.
  void end_after_answer();
  void close();

  // The answer to request number `serial`; ignored when that is not the current one.
  void reply(uint64_t serial, const HttpResponse& response);
  void start_stream(uint64_t serial);
  void write(uint64_t serial, std::string_view bytes);
  void finish(uint64_t serial);
  void on_disconnect(uint64_t serial, std::function<void()> handler);

  // For a handover (coordinator/handover). To be called when the server's `holding` has changed.
  void hold();
  bool is_reading_request() const { return state_ == State::kReading; }
  // Of a request that is not read whole: it is to be sent again.
  void refuse_held();
  bool is_held() const { return !read_pending_ && !write_pending_; }
  ConnectionState state() const;
  int descriptor() const { return socket_.is_open() ? native_handle() : -1; }
  // Instead of start().
  void take_over(const ConnectionState& state);
  // Of the request that is being answered.
  uint64_t serial() const { return serial_; }
  bool awaits_answer() const { return state_ == State::kAnswering && !answer_complete_; }
  bool is_streaming() const { return streaming_; }
  // The path of its route.
  const std::string& route_label() const { return route_label_; }

 private:
  static constexpr size_t kPieceBytes = 256U << 10;  // of bodies that are larger than memory

  enum class State : uint8_t { kShakingHands, kIdle, kReading, kAnswering, kLingering, kClosed };

  void next_request();
  void read_some();
  void on_read(boost::beast::error_code ec, size_t n_bytes);
  void parse();
  bool check_lines();
  bool take_head();
  bool take_route();
  bool count_body();
  void hand_over_piece();
  void piece_taken(const BodySink* sink, const std::optional<ApiError>& refusal);
  void dispatch();
  void refuse(const ApiError& error);
  void read_source();
  void source_read(const BodySource* source, const std::string& bytes);
  void answer_complete();
  void answer_sent();
  void linger();
  void release_body();
  void send(std::string_view bytes);
  void write_some();
  void on_written(boost::beast::error_code ec, size_t n_bytes);
  void set_deadline(int timeout_ms);
  void on_deadline();
  void set_write_deadline();
  bool is_current(uint64_t serial) const;
  bool may_read() const;
  void go_on();
  // asio has no const one; it changes nothing.
  int native_handle() const {
    return const_cast<boost::asio::ip::tcp::socket&>(socket_).native_handle();
  }
  bool take_encrypted(size_t n_bytes);
  void write_at_once(std::string_view bytes);

  boost::asio::ip::tcp::socket socket_;
  std::shared_ptr<HttpServerShared> shared_;
  const HttpLimits& limits_;
  State state_ = State::kIdle;
  uint64_t serial_ = 0;

  std::optional<TlsChannel> tls_;
  std::vector<char> encrypted_;  // as it came; empty without TLS
  boost::beast::flat_buffer buffer_;
  std::optional<RequestParser> parser_;
  bool read_pending_ = false;
  bool write_pending_ = false;
  std::shared_ptr<HttpConnection> kept_;  // this one, while held: no operation keeps it then
  HeadLines head_lines_;                  // of the request that is read
  size_t n_checked_bytes_ = 0;            // at the buffer's beginning, that it has seen
  bool head_taken_ = false;
  size_t counted_body_bytes_ = 0;
  std::shared_ptr<BodySink> sink_;  // for the body of the request that is read
  boost::asio::steady_timer deadline_;

  std::string route_label_;
  std::string key_name_;
  bool keep_alive_ = false;
  bool chunked_ = false;    // the client takes the chunked coding
  bool streaming_ = false;  // the current answer is an event stream
  bool answer_complete_ = false;
  std::shared_ptr<BodySource> source_;  // of the current answer's body
  uint64_t source_left_bytes_ = 0;      // that it has not given
  bool end_after_answer_ = false;
  std::function<void()> on_disconnect_;

  std::string queued_;   // waits for the write in progress
  std::string writing_;  // the write in progress
  size_t written_ = 0;   // bytes of writing_ that are gone
  boost::asio::steady_timer write_deadline_;
};

}  // namespace trireme
