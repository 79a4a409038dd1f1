#include "comm/control/heartbeat_datagram.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <cstring>

#include "comm/control/wire_convert.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr std::string_view kKeyLabel = "trireme heartbeat datagram";

void write_mac(const SecretKey& key, std::string_view message, char* mac) {
  unsigned int n = 0;
  const unsigned char* made = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                                   reinterpret_cast<const unsigned char*>(message.data()),
                                   message.size(), reinterpret_cast<unsigned char*>(mac), &n);
  TRIREME_CHECK(made != nullptr && n == kMacBytes);
}

bool open_message(const SecretKey& key, std::span<const char> datagram, wire::Datagram& message) {
  if (datagram.size() < kMacBytes || datagram.size() > kMaxDatagramBytes) return false;
  const std::span<const char> rest = datagram.subspan(kMacBytes);
  char mac[kMacBytes];
  write_mac(key, {rest.data(), rest.size()}, mac);
  return CRYPTO_memcmp(mac, datagram.data(), kMacBytes) == 0 &&
         message.ParseFromArray(rest.data(), static_cast<int>(rest.size())) &&
         message.world_rank() >= 0;
}

}  // namespace

SecretKey heartbeat_key(std::string_view salt, std::string_view secret) {
  TRIREME_CHECK(salt.size() == kSaltBytes);
  return derive_key(fmt::format("{}:{}", kKeyLabel, salt), secret);
}

std::string seal_message(const SecretKey& key, std::string_view message) {
  std::string datagram(kMacBytes, '\0');
  write_mac(key, message, datagram.data());
  return datagram.append(message);
}

std::string seal(const SecretKey& key, const Heartbeat& heartbeat) {
  wire::Datagram message;
  message.set_world_rank(heartbeat.world_rank);
  message.set_number(heartbeat.number);
  message.mutable_heartbeat()->set_unheard_ms(heartbeat.unheard_ms);
  detail::to_wire(heartbeat.state, *message.mutable_heartbeat()->mutable_state());
  return seal_message(key, message.SerializeAsString());
}

std::string seal(const SecretKey& key, const HeartbeatAnswer& answer) {
  wire::Datagram message;
  message.set_world_rank(answer.world_rank);
  message.set_number(answer.number);
  return seal_message(key, message.SerializeAsString());
}

std::optional<Heartbeat> open_heartbeat(const SecretKey& key, std::span<const char> datagram) {
  wire::Datagram message;
  if (!open_message(key, datagram, message) || !message.has_heartbeat()) return std::nullopt;
  if (message.heartbeat().unheard_ms() < -1) return std::nullopt;
  Heartbeat heartbeat{.world_rank = message.world_rank(),
                      .number = message.number(),
                      .unheard_ms = message.heartbeat().unheard_ms(),
                      .state = {}};
  if (detail::from_wire(message.heartbeat().state(), heartbeat.state) != nullptr)
    return std::nullopt;
  return heartbeat;
}

std::optional<HeartbeatAnswer> open_answer(const SecretKey& key, std::span<const char> datagram) {
  wire::Datagram message;
  if (!open_message(key, datagram, message) || message.has_heartbeat()) return std::nullopt;
  return HeartbeatAnswer{.world_rank = message.world_rank(), .number = message.number()};
}

}  // namespace trireme
