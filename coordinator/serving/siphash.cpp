#include "coordinator/serving/siphash.h"

#include <bit>
#include <cstring>

#include "coordinator/serving/seed.h"

namespace trireme {
namespace {

static_assert(std::endian::native == std::endian::little);

struct SipState {
  uint64_t v0, v1, v2, v3;

  void round() {
    v0 += v1;
    v2 += v3;
    v1 = std::rotl(v1, 13) ^ v0;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 = std::rotl(v0, 32);
    v2 += v1;
    v0 += v3;
    v1 = std::rotl(v1, 17) ^ v2;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 = std::rotl(v2, 32);
  }
  void add(uint64_t word) {
    v3 ^= word;
    round();
    round();
    v0 ^= word;
  }
};

}  // namespace

uint64_t siphash(const SipKey& key, std::string_view bytes) {
  SipState state{key[0] ^ 0x736F6D6570736575U, key[1] ^ 0x646F72616E646F6DU,
                 key[0] ^ 0x6C7967656E657261U, key[1] ^ 0x7465646279746573U};
  const uint64_t length = bytes.size();
  uint64_t word = 0;
  for (; bytes.size() >= sizeof(word); bytes.remove_prefix(sizeof(word))) {
    std::memcpy(&word, bytes.data(), sizeof(word));
    state.add(word);
  }
  word = 0;
  if (!bytes.empty()) std::memcpy(&word, bytes.data(), bytes.size());
  state.add(word | length << 56U);
  state.v2 ^= 0xFFU;
  for (int i = 0; i < 4; ++i) state.round();
  return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

SipKey draw_sip_key() { return {draw_seed(), draw_seed()}; }

}  // namespace trireme
