#include <boost/asio/buffer.hpp>

#include "coordinator/http/http_connection.h"

namespace trireme {

namespace asio = boost::asio;
namespace beast = boost::beast;

// Bytes that came under TLS. True when they gave more of a request to parse.
bool HttpConnection::take_encrypted(size_t n_bytes) {
  tls_->receive({encrypted_.data(), n_bytes});
  if (!tls_->established()) {
    if (!tls_->shake_hands()) {
      write_at_once(tls_->take_output());
      close();
      return false;
    }
    if (writing_.empty()) write_some();
  }
  const size_t n_before = buffer_.size();
  bool ended = false;
  while (tls_->established()) {
    const auto room = buffer_.prepare(encrypted_.size());
    size_t n_plain = 0;
    const TlsChannel::Read read =
        tls_->read({static_cast<char*>(room.data()), room.size()}, n_plain);
    buffer_.commit(n_plain);
    if (read == TlsChannel::Read::kBytes) continue;
    ended = read != TlsChannel::Read::kNeedMore;
    break;
  }
  if (ended) {
    close();
    return false;
  }
  if (state_ == State::kShakingHands && tls_->established()) {
    next_request();
    return false;
  }
  if (buffer_.size() > n_before) return true;
  read_some();
  return false;
}

// The last bytes of a connection: few, so that the socket's buffer has room.
void HttpConnection::write_at_once(std::string_view bytes) {
  if (bytes.empty()) return;
  beast::error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.write_some(asio::buffer(bytes), ignored);
}

}  // namespace trireme
