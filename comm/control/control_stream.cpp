#include "comm/control/control_stream.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "comm/control/control_codec.h"

namespace trireme {
namespace {

using std::chrono::milliseconds;
using Received = ControlStream::Received;

// Bytes of `room` that were filled, with kBytes; none when the wait was only interrupted.
Received receive_some(int fd, std::span<char> room, milliseconds timeout, size_t& n_bytes) {
  n_bytes = 0;
  pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
  const int ready = poll(&waiting, 1, static_cast<int>(timeout.count()));
  if (ready == 0) return Received::kTimeout;
  if (ready < 0) return errno == EINTR ? Received::kBytes : Received::kEnd;
  const ssize_t n = recv(fd, room.data(), room.size(), 0);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return Received::kBytes;
  if (n <= 0) return Received::kEnd;
  n_bytes = static_cast<size_t>(n);
  return Received::kBytes;
}

}  // namespace

Result<std::unique_ptr<ControlStream>> ControlStream::open(const HostPort& to,
                                                           std::string_view secret,
                                                           Deadline deadline) {
  Result<UniqueFd> fd = dial(to, deadline);
  if (!fd) return fd.error();
  auto stream = std::unique_ptr<ControlStream>(new ControlStream(std::move(*fd)));
  if (to.tls) {
    if (const auto error = stream->shake_hands(secret, deadline)) return *error;
  }
  return stream;
}

std::optional<Error> ControlStream::shake_hands(std::string_view secret, Deadline deadline) {
  tls_.emplace(TlsContext::client_by_secret(secret));
  for (;;) {
    const bool going_on = tls_->shake_hands();
    const bool sent = send_all(fd_.get(), tls_->take_output());
    if (!going_on) {
      return Error{fmt::format("no TLS connection: {}; give it the coordinator's TRIREME_SECRET",
                               tls_->problem()),
                   "refused"};
    }
    if (tls_->established()) return std::nullopt;
    const auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now());
    size_t n_bytes = 0;
    const Received received =
        receive_some(fd_.get(), encrypted_, std::max(left, milliseconds(0)), n_bytes);
    if (received == Received::kTimeout) return Error{"it does not shake hands over TLS", ""};
    if (!sent || received == Received::kEnd) return Error{"it hung up on the TLS handshake", ""};
    tls_->receive({encrypted_.data(), n_bytes});
  }
}

bool ControlStream::send(std::string_view bytes) {
  const std::lock_guard in_order(send_mutex_);
  return send_in_order(bytes);
}

bool ControlStream::send_in_order(std::string_view bytes) {
  if (!tls_) return send_all(fd_.get(), bytes);
  std::string encrypted;
  {
    const std::lock_guard lock(tls_mutex_);
    encrypted = tls_->encrypt(bytes);
  }
  return !encrypted.empty() && send_all(fd_.get(), encrypted);
}

bool ControlStream::renew(std::string_view last, std::string_view secret, Deadline deadline) {
  const std::lock_guard in_order(send_mutex_);
  if (!tls_ || !send_in_order(last)) return false;
  char byte = 0;
  size_t n_bytes = 0;
  for (Received received = Received::kBytes; n_bytes == 0;) {
    if (received != Received::kBytes) return false;
    const auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now());
    received = receive_some(fd_.get(), {&byte, 1}, std::max(left, milliseconds(0)), n_bytes);
  }
  return byte == kRenewByte && !shake_hands(secret, deadline);
}

ControlStream::Received ControlStream::receive(FrameReader& reader, milliseconds timeout) {
  const std::span<char> room = reader.prepare();
  size_t n_bytes = 0;
  if (!tls_) {
    const Received received = receive_some(fd_.get(), room, timeout, n_bytes);
    reader.commit(n_bytes);
    return received;
  }
  const auto decrypt = [&] {
    const std::lock_guard lock(tls_mutex_);
    const TlsChannel::Read read = tls_->read(room, n_bytes);
    reader.commit(n_bytes);
    return read;
  };
  // What came with the last bytes goes first: the socket may stay silent after it.
  TlsChannel::Read read = decrypt();
  if (read == TlsChannel::Read::kNeedMore) {
    size_t n_encrypted = 0;
    const Received received = receive_some(fd_.get(), encrypted_, timeout, n_encrypted);
    if (received != Received::kBytes) return received;
    {
      const std::lock_guard lock(tls_mutex_);
      tls_->receive({encrypted_.data(), n_encrypted});
    }
    read = decrypt();
  }
  const bool going_on = read == TlsChannel::Read::kBytes || read == TlsChannel::Read::kNeedMore;
  return going_on ? Received::kBytes : Received::kEnd;
}

size_t ControlStream::n_unconfirmed_bytes() const {
  int n_bytes = 0;
  return ioctl(fd_.get(), SIOCOUTQ, &n_bytes) == 0 ? static_cast<size_t>(n_bytes) : 0;
}

void ControlStream::end_sending() { shutdown(fd_.get(), SHUT_WR); }

}  // namespace trireme
