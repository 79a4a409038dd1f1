#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "comm/control/rank_state.h"
#include "comm/control/secret_key.h"

namespace trireme {

// A rank's heartbeat in a datagram, besides those on its connection.
struct Heartbeat {
  int32_t world_rank = 0;
  uint64_t number = 0;      // above all before: one that was recorded and comes again shows
  int32_t unheard_ms = -1;  // since anything came of the coordinator; -1: no datagram ever did
  RankState state;
};

// The coordinator's answer to one of them.
struct HeartbeatAnswer {
  int32_t world_rank = 0;
  uint64_t number = 0;  // the heartbeat's
};

// HMAC-SHA256 of the rest, then the rest: a protobuf message. Nothing is looked at before the MAC
// was found right.
constexpr size_t kMacBytes = 32;
constexpr size_t kMaxDatagramBytes = 256;

// Of one launch, so that datagrams of no other are taken for its own. `salt` is JobSpec's.
SecretKey heartbeat_key(std::string_view salt, std::string_view secret);

std::string seal_message(const SecretKey& key, std::string_view message);
std::string seal(const SecretKey& key, const Heartbeat& heartbeat);
std::string seal(const SecretKey& key, const HeartbeatAnswer& answer);

// None for anything that was not sealed with this key as one of these, with its fields in range.
std::optional<Heartbeat> open_heartbeat(const SecretKey& key, std::span<const char> datagram);
std::optional<HeartbeatAnswer> open_answer(const SecretKey& key, std::span<const char> datagram);

}  // namespace trireme
