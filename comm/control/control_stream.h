#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>

#include "comm/control/dial.h"
#include "comm/control/frame_reader.h"
#include "comm/control/tls_channel.h"

namespace trireme {

// A rank's end of its connection to the coordinator: a blocking socket, in clear or under TLS. One
// thread may receive while others send.
class ControlStream {
 public:
  enum class Received : uint8_t { kBytes, kTimeout, kEnd };
  using Deadline = std::chrono::steady_clock::time_point;

  // Dials and, where the address asks for TLS, shakes hands with an end that knows `secret`. An
  // Error with param "refused" is final, any other may be tried again.
  static Result<std::unique_ptr<ControlStream>> open(const HostPort& to, std::string_view secret,
                                                     Deadline deadline);

  // False when the connection is broken.
  bool send(std::string_view bytes);
  // kBytes also for those that are not yet enough to give any to the reader. The reader's frames
  // must be taken before the next call.
  Received receive(FrameReader& reader, std::chrono::milliseconds timeout);
  // Of what was sent, as the network carries it: bytes that the other end's host has not confirmed.
  size_t n_unconfirmed_bytes() const;
  // Under TLS: sends `last`, then waits for the other end's kRenewByte and shakes hands anew. By
  // the thread that receives; what others send waits meanwhile. False when the connection is of no
  // more use.
  bool renew(std::string_view last, std::string_view secret, Deadline deadline);
  int fd() const { return fd_.get(); }
  // What was sent still arrives. Wakes a thread that is stuck in send().
  void end_sending();

 private:
  explicit ControlStream(UniqueFd fd) : fd_(std::move(fd)) {}
  std::optional<Error> shake_hands(std::string_view secret, Deadline deadline);
  bool send_in_order(std::string_view bytes);

  UniqueFd fd_;
  std::mutex send_mutex_;  // keeps encrypted bytes in the order in which they were made
  std::mutex tls_mutex_;
  std::optional<TlsChannel> tls_;  // under tls_mutex_
  std::array<char, size_t{16} << 10> encrypted_;
};

}  // namespace trireme
