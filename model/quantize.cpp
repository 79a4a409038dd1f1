#include "model/quantize.h"

#include <array>
#include <bit>
#include <cstring>
#include <limits>

namespace trireme {
namespace {

// Some of a panel's columns, a lane each: every processor of today has registers of this size.
constexpr int kLanes = 4;
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Ints = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));

constexpr float kSmallestScale = 0x1p-100F;  // far from where reciprocals overflow

Floats all(float x) { return Floats{} + x; }

Floats load(const float* x) {
  Floats out;
  std::memcpy(&out, x, sizeof(out));
  return out;
}

Floats min(Floats a, Floats b) { return a < b ? a : b; }
Floats max(Floats a, Floats b) { return a > b ? a : b; }
Floats magnitude(Floats x) { return std::bit_cast<Floats>(std::bit_cast<Ints>(x) & 0x7fffffff); }

// To nearest, ties to even, for |x| < 2^22.
Floats round_small(Floats x) {
  constexpr float kMagic = 0x1.8p23F;
  return (x + kMagic) - kMagic;
}

// 1 / scale; 0 for a scale that counts as zero.
Floats reciprocal(Floats scale) {
  return magnitude(scale) < kSmallestScale ? Floats{} : 1.0F / scale;
}

Floats round_to_bf16(Floats x) {
  for (int i = 0; i < kLanes; ++i) x[i] = to_float(to_bf16(x[i]));
  return x;
}

// The smallest bf16 that is not below x >= 0.
Floats round_up_to_bf16(Floats x) {
  return std::bit_cast<Floats>((std::bit_cast<Ints>(x) + 0xffff) & ~0xffff);
}

Floats int8_level(Floats x, Floats inverse) {
  return round_small(min(max(x * inverse, all(-127.0F)), all(127.0F)));
}
Floats int4_level(Floats x, Floats inverse) {
  return round_small(min(max(x * inverse, all(-8.0F)), all(7.0F)));
}

// Numbers and scales as they are stored, once the scale is known.
template <Floats (*Level)(Floats, Floats), int kCenter>
void store(const float* x, int64_t k, Floats scale, uint8_t* q, BF16* scales) {
  const Floats inverse = reciprocal(scale);
  for (int i = 0; i < kLanes; ++i) scales[i] = inverse[i] == 0.0F ? BF16{} : to_bf16(scale[i]);
  for (int64_t j = 0; j < k; ++j) {
    const Floats level = Level(load(x + j * kPanelColumns), inverse);
    for (int i = 0; i < kLanes; ++i) {
      q[j * kPanelColumns + i] = static_cast<uint8_t>(static_cast<int32_t>(level[i]) + kCenter);
    }
  }
}

// The best scales for int4 so far and their squared errors.
struct Int4Search {
  Floats scale;
  Floats error;

  void offer(Floats other, Floats other_error) {
    scale = other_error < error ? other : scale;
    error = other_error < error ? other_error : error;
  }
};

// Offers two scales for each column.
void try_int4_scales(const float* x, int64_t k, Floats a, Floats b, Int4Search& best) {
  const Floats inverse_a = reciprocal(a);
  const Floats inverse_b = reciprocal(b);
  Floats error_a = {};
  Floats error_b = {};
  for (int64_t j = 0; j < k; ++j) {
    const Floats value = load(x + j * kPanelColumns);
    const Floats off_a = value - int4_level(value, inverse_a) * a;
    const Floats off_b = value - int4_level(value, inverse_b) * b;
    error_a += off_a * off_a;
    error_b += off_b * off_b;
  }
  best.offer(a, error_a);
  best.offer(b, error_b);
}

// The scale that fits the levels of the best one so far with the least squared error.
Floats refit_int4_scale(const float* x, int64_t k, Floats scale) {
  const Floats inverse = reciprocal(scale);
  Floats dot = {};
  Floats square = {};
  for (int64_t j = 0; j < k; ++j) {
    const Floats value = load(x + j * kPanelColumns);
    const Floats level = int4_level(value, inverse);
    dot += value * level;
    square += level * level;
  }
  return square > 0.0F ? round_to_bf16(dot / max(square, all(1.0F))) : scale;
}

Floats find_int4_scale(const float* x, int64_t k) {
  // Of the scale that puts the largest magnitude at the end of the range: smaller ones cut it off
  // and fit the many better.
  constexpr std::array<float, 6> kFactors = {1.0F, 0.95F, 0.9F, 0.85F, 0.8F, 0.75F};
  Floats extreme = {};  // the number of the largest magnitude, signed
  for (int64_t j = 0; j < k; ++j) {
    const Floats value = load(x + j * kPanelColumns);
    extreme = magnitude(value) > magnitude(extreme) ? value : extreme;
  }
  // Where every square overflows, the first scale stays.
  Int4Search best = {.scale = round_to_bf16(extreme / -8.0F),
                     .error = all(std::numeric_limits<float>::infinity())};
  for (const float factor : kFactors) {
    try_int4_scales(x, k, round_to_bf16(extreme / -8.0F * factor),
                    round_to_bf16(extreme / 7.0F * factor), best);
  }
  const Floats refit = refit_int4_scale(x, k, best.scale);
  try_int4_scales(x, k, refit, refit, best);
  return best.scale;
}

}  // namespace

void quantize_int8(const float* x, int64_t k, uint8_t* q, BF16* scales) {
  for (int i = 0; i < kPanelColumns; i += kLanes) {
    Floats largest = {};
    for (int64_t j = 0; j < k; ++j) {
      largest = max(largest, magnitude(load(x + j * kPanelColumns + i)));
    }
    store<int8_level, kCenterI8>(x + i, k, round_up_to_bf16(largest / 127.0F), q + i, scales + i);
  }
}

void quantize_int4(const float* x, int64_t k, uint8_t* q, BF16* scales) {
  for (int i = 0; i < kPanelColumns; i += kLanes) {
    store<int4_level, kCenterI4>(x + i, k, find_int4_scale(x + i, k), q + i, scales + i);
  }
}

}  // namespace trireme
