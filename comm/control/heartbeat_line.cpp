#include "comm/control/heartbeat_line.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>

namespace trireme {
namespace {

constexpr int kMostAtOnce = 64;

UniqueFd datagrams_to_peer_of(int connection_fd) {
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  auto* address = reinterpret_cast<sockaddr*>(&peer);
  if (getpeername(connection_fd, address, &size) != 0) return {};
  UniqueFd fd(socket(peer.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd && connect(fd.get(), address, size) != 0) fd.reset();
  return fd;
}

}  // namespace

HeartbeatLine::HeartbeatLine(int connection_fd, const SecretKey& key, int32_t world_rank)
    : fd_(datagrams_to_peer_of(connection_fd)), key_(key), world_rank_(world_rank) {}

void HeartbeatLine::beat(const RankState& state, Time last_bytes) {
  if (!fd_) return;
  take_answers();
  Heartbeat heartbeat{.world_rank = world_rank_, .number = ++number_, .state = state};
  if (answered_ > 0) {
    const auto unheard = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - std::max(last_bytes, last_answer()));
    heartbeat.unheard_ms = static_cast<int32_t>(
        std::clamp<int64_t>(unheard.count(), 0, std::numeric_limits<int32_t>::max()));
  }
  const std::string datagram = seal(key_, heartbeat);
  // What the network says against it now, it may carry the next time.
  if (send(fd_.get(), datagram.data(), datagram.size(), MSG_NOSIGNAL) < 0) return;
}

void HeartbeatLine::take_answers() {
  std::array<char, kMaxDatagramBytes + 1> room;
  for (int i = 0; i < kMostAtOnce; ++i) {
    const ssize_t n = recv(fd_.get(), room.data(), room.size(), 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n < 0) continue;  // an error of what was sent before, told once
    const auto answer = open_answer(key_, {room.data(), static_cast<size_t>(n)});
    if (!answer || answer->world_rank != world_rank_) continue;
    if (answer->number <= answered_ || answer->number > number_) continue;
    answered_ = answer->number;
    last_answer_.store(std::chrono::steady_clock::now(), std::memory_order_relaxed);
  }
}

}  // namespace trireme
