#pragma once

#include <bit>
#include <cstdint>

namespace trireme {

// The upper half of a float32.
struct BF16 {
  uint16_t bits = 0;
};

inline float to_float(BF16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16U); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline BF16 to_bf16(float x) {
  const auto u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffU) > 0x7f800000U) return {static_cast<uint16_t>((u >> 16U) | 0x40U)};
  return {static_cast<uint16_t>((u + 0x7fffU + ((u >> 16U) & 1U)) >> 16U)};
}

}  // namespace trireme
