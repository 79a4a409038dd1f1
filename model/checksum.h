#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace trireme {

// 64-bit checksum against damage, not against intent: over the 8-byte little-endian words w of the
// data, the last one filled with zeros, h = rotate_left(h ^ w, 29) * 0x100000001b3; then the size
// is mixed in and the bits are spread.
inline uint64_t checksum64(std::span<const std::byte> data) {
  constexpr uint64_t kStart = 0xcbf29ce484222325U;
  constexpr uint64_t kPrime = 0x100000001b3U;
  uint64_t h = kStart;
  size_t i = 0;
  for (; i + 8 <= data.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, data.data() + i, 8);
    h = std::rotl(h ^ word, 29) * kPrime;
  }
  if (i < data.size()) {
    uint64_t word = 0;
    std::memcpy(&word, data.data() + i, data.size() - i);
    h = std::rotl(h ^ word, 29) * kPrime;
  }
  h = (h ^ data.size()) * 0x9e3779b97f4a7c15U;
  h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15U;
  return h ^ (h >> 29);
}

}  // namespace trireme
