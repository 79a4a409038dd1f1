#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "kernels/check.h"

namespace trireme {

// 64-bit checksum against damage, not against intent: over the 8-byte little-endian words w of the
// data, the last one filled with zeros, h = rotate_left(h ^ w, 29) * 0x100000001b3; then the size
// is mixed in and the bits are spread.
class Checksum64 {
 public:
  // Data in pieces: each a multiple of 8 bytes but the last.
  void add(std::span<const std::byte> data) {
    TRIREME_CHECK(size_ % 8 == 0);
    size_ += data.size();
    uint64_t h = state_;
    for (; data.size() >= 8; data = data.subspan(8)) h = mixed(h, data);
    if (!data.empty()) h = mixed(h, data);
    state_ = h;
  }

  uint64_t value() const {
    uint64_t h = (state_ ^ size_) * 0x9e3779b97f4a7c15U;
    h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15U;
    return h ^ (h >> 29);
  }

 private:
  static uint64_t mixed(uint64_t h, std::span<const std::byte> data) {
    uint64_t word = 0;
    std::memcpy(&word, data.data(), data.size() < 8 ? data.size() : 8);
    return std::rotl(h ^ word, 29) * 0x100000001b3U;
  }

  uint64_t state_ = 0xcbf29ce484222325U;
  uint64_t size_ = 0;
};

inline uint64_t checksum64(std::span<const std::byte> data) {
  Checksum64 sum;
  sum.add(data);
  return sum.value();
}

}  // namespace trireme
