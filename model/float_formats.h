#pragma once

#include <bit>
#include <cstdint>

namespace trireme {

// The value of the f16 with these bits, exactly.
constexpr float f16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fU;
  const uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
  }
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // zero or subnormal
  return sign != 0 ? -magnitude : magnitude;
}

// Rounds to the nearest f16, ties to even; beyond the largest (65504) it becomes infinite.
constexpr uint16_t float_to_f16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return sign | 0x7e00U;   // NaN
  if (magnitude >= 0x477ff000U) return sign | 0x7c00U;  // 65520 and more
  if (magnitude < 0x33000000U) return sign;             // below half of the smallest subnormal
  const uint32_t exponent = magnitude >> 23;
  // Subnormal in f16: all of the mantissa's bits, shifted to units of 2^-24.
  const bool is_normal = exponent >= 113;
  const uint32_t shift = is_normal ? 13 : 126 - exponent;
  const uint32_t value = is_normal ? magnitude - (112U << 23) : (magnitude & 0x7fffffU) | 0x800000U;
  const uint32_t half = 1U << (shift - 1);
  const uint32_t odd = (value >> shift) & 1U;
  return static_cast<uint16_t>(sign | ((value + half - 1 + odd) >> shift));
}

}  // namespace trireme
