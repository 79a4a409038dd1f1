#include "model/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

namespace trireme {
namespace {

// Loops over lanes are innermost and of this fixed length, so that they become vector code.
constexpr int kLanes = kPanelColumns;
using Lanes = std::array<float, kLanes>;

constexpr float kSmallestScale = 0x1p-100F;  // far from where reciprocals overflow

// To nearest, ties to even, for |x| < 2^22.
inline float round_small(float x) {
  constexpr float kMagic = 0x1.8p23F;
  return (x + kMagic) - kMagic;
}

inline float magnitude(float x) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7fffffffU);
}

// The smallest bf16 that is not below x >= 0.
BF16 to_bf16_up(float x) {
  return {static_cast<uint16_t>((std::bit_cast<uint32_t>(x) + 0xffffU) >> 16U)};
}

// 1 / scale; 0 for a scale that counts as zero.
float reciprocal(float scale) { return magnitude(scale) < kSmallestScale ? 0.0F : 1.0F / scale; }

struct Int4Search {
  Lanes scale{};
  Lanes error{};
};

inline float int4_level(float x, float inverse) {
  return round_small(std::min(std::max(x * inverse, -8.0F), 7.0F));
}

// Takes `scale` for each column where it fits better than the best one so far.
void try_int4_scale(const float* x, int64_t k, const Lanes& scale, Int4Search& best) {
  Lanes inverse{};
  Lanes error{};
  for (int i = 0; i < kLanes; ++i) inverse[i] = reciprocal(scale[i]);
  for (int64_t j = 0; j < k; ++j) {
    for (int i = 0; i < kLanes; ++i) {
      const float value = x[j * kLanes + i];
      const float difference = value - int4_level(value, inverse[i]) * scale[i];
      error[i] += difference * difference;
    }
  }
  for (int i = 0; i < kLanes; ++i) {
    if (!(error[i] < best.error[i])) continue;
    best.error[i] = error[i];
    best.scale[i] = scale[i];
  }
}

// The scale that fits the levels of the best one so far with the least squared error.
Lanes refit_int4_scale(const float* x, int64_t k, const Int4Search& best) {
  Lanes inverse{};
  Lanes dot{};
  Lanes square{};
  for (int i = 0; i < kLanes; ++i) inverse[i] = reciprocal(best.scale[i]);
  for (int64_t j = 0; j < k; ++j) {
    for (int i = 0; i < kLanes; ++i) {
      const float value = x[j * kLanes + i];
      const float level = int4_level(value, inverse[i]);
      dot[i] += value * level;
      square[i] += level * level;
    }
  }
  Lanes out{};
  for (int i = 0; i < kLanes; ++i) {
    out[i] = square[i] > 0.0F ? to_float(to_bf16(dot[i] / square[i])) : best.scale[i];
  }
  return out;
}

}  // namespace

void quantize_int8(const float* x, int64_t k, uint8_t* q, BF16* scales) {
  Lanes largest{};
  for (int64_t j = 0; j < k; ++j) {
    for (int i = 0; i < kLanes; ++i) {
      largest[i] = std::max(largest[i], magnitude(x[j * kLanes + i]));
    }
  }
  Lanes inverse{};
  for (int i = 0; i < kLanes; ++i) {
    const BF16 scale = to_bf16_up(largest[i] / 127.0F);
    inverse[i] = reciprocal(to_float(scale));
    scales[i] = inverse[i] == 0.0F ? BF16{} : scale;
  }
  for (int64_t j = 0; j < k; ++j) {
    for (int i = 0; i < kLanes; ++i) {
      const float level =
          round_small(std::min(std::max(x[j * kLanes + i] * inverse[i], -127.0F), 127.0F));
      q[j * kLanes + i] = static_cast<uint8_t>(static_cast<int32_t>(level) + kCenterI8);
    }
  }
}

void quantize_int4(const float* x, int64_t k, uint8_t* q, BF16* scales) {
  // Of the scale that puts the largest magnitude at the end of the range: smaller ones cut it off
  // and fit the many better.
  constexpr std::array<float, 6> kFactors = {1.0F, 0.95F, 0.9F, 0.85F, 0.8F, 0.75F};
  Lanes extreme{};  // the number of the largest magnitude, signed
  for (int64_t j = 0; j < k; ++j) {
    for (int i = 0; i < kLanes; ++i) {
      const float value = x[j * kLanes + i];
      extreme[i] = magnitude(value) > magnitude(extreme[i]) ? value : extreme[i];
    }
  }
  Int4Search best;  // where every square overflows, the first scale stays
  best.error.fill(std::numeric_limits<float>::infinity());
  for (int i = 0; i < kLanes; ++i) best.scale[i] = to_float(to_bf16(extreme[i] / -8.0F));
  for (const float end : {-8.0F, 7.0F}) {
    for (const float factor : kFactors) {
      Lanes scale{};
      for (int i = 0; i < kLanes; ++i) {
        scale[i] = to_float(to_bf16(extreme[i] / end * factor));
      }
      try_int4_scale(x, k, scale, best);
    }
  }
  try_int4_scale(x, k, refit_int4_scale(x, k, best), best);
  Lanes inverse{};
  for (int i = 0; i < kLanes; ++i) {
    inverse[i] = reciprocal(best.scale[i]);
    scales[i] = inverse[i] == 0.0F ? BF16{} : to_bf16(best.scale[i]);
  }
  for (int64_t j = 0; j < k; ++j) {
    for (int i = 0; i < kLanes; ++i) {
      const float level = int4_level(x[j * kLanes + i], inverse[i]);
      q[j * kLanes + i] = static_cast<uint8_t>(static_cast<int32_t>(level) + kCenterI4);
    }
  }
}

}  // namespace trireme
