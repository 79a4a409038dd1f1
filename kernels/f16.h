#pragma once

#include <bit>
#include <cstdint>

namespace trireme {

// An IEEE half.
struct F16 {
  uint16_t bits = 0;
};

// The value, exactly.
constexpr float to_float(F16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000U) << 16U;
  const uint32_t exponent = (x.bits >> 10U) & 0x1fU;
  const uint32_t mantissa = x.bits & 0x3ffU;
  if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13U));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112U) << 23U) | (mantissa << 13U));
  }
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // zero or subnormal
  return sign != 0 ? -magnitude : magnitude;
}

// Rounds to nearest, ties to even; beyond the largest (65504) it becomes infinite.
constexpr F16 to_f16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((bits >> 16U) & 0x8000U);
  const auto with_sign = [sign](uint32_t u) { return F16{static_cast<uint16_t>(sign | u)}; };
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return with_sign(0x7e00U);   // NaN
  if (magnitude >= 0x477ff000U) return with_sign(0x7c00U);  // 65520 and more
  if (magnitude < 0x33000000U) return with_sign(0);         // below half of the smallest subnormal
  const uint32_t exponent = magnitude >> 23U;
  // Subnormal in f16: all of the mantissa's bits, shifted to units of 2^-24.
  const bool is_normal = exponent >= 113;
  const uint32_t shift = is_normal ? 13 : 126 - exponent;
  const uint32_t value =
      is_normal ? magnitude - (112U << 23U) : (magnitude & 0x7fffffU) | 0x800000U;
  const uint32_t half = 1U << (shift - 1);
  const uint32_t odd = (value >> shift) & 1U;
  return with_sign((value + half - 1 + odd) >> shift);
}

}  // namespace trireme
