#pragma once

// Sixteen float lanes, in the registers of the instruction set this file is compiled for. Private
// to isa_kernels.cpp, which is compiled once per set with TRIREME_ISA naming the namespace.

#include <cstdint>
#include <cstring>

#if defined(TRIREME_ISA_avx512) || defined(TRIREME_ISA_avx2)
#include <immintrin.h>
#endif

#include "kernels/bf16.h"
#include "kernels/f16.h"

namespace trireme::TRIREME_ISA {

#define TRIREME_INLINE inline __attribute__((always_inline))

#if defined(TRIREME_ISA_avx512)

struct V16 {
  __m512 v;
};
TRIREME_INLINE V16 zero() { return {_mm512_setzero_ps()}; }
TRIREME_INLINE V16 splat(float x) { return {_mm512_set1_ps(x)}; }
TRIREME_INLINE V16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
TRIREME_INLINE V16 load(const F16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
TRIREME_INLINE void store(float* p, V16 a) { _mm512_storeu_ps(p, a.v); }
TRIREME_INLINE __mmask16 first_lanes(int n) {
  return static_cast<__mmask16>((1U << static_cast<unsigned>(n)) - 1U);
}
// The first n lanes from memory, the others zero; nothing is read past them.
TRIREME_INLINE V16 load_n(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
TRIREME_INLINE void store_n(float* p, V16 a, int n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
TRIREME_INLINE V16 operator+(V16 a, V16 b) { return {_mm512_add_ps(a.v, b.v)}; }
TRIREME_INLINE V16 operator-(V16 a, V16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
TRIREME_INLINE V16 operator*(V16 a, V16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
TRIREME_INLINE V16 operator/(V16 a, V16 b) { return {_mm512_div_ps(a.v, b.v)}; }
TRIREME_INLINE V16 max(V16 a, V16 b) { return {_mm512_max_ps(a.v, b.v)}; }
TRIREME_INLINE V16 min(V16 a, V16 b) { return {_mm512_min_ps(a.v, b.v)}; }
// a * b + c, rounded once.
TRIREME_INLINE V16 fma(V16 a, V16 b, V16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
TRIREME_INLINE V16 round_nearest(V16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n, n whole and in [-126, 127].
TRIREME_INLINE V16 scale_by_power_of_two(V16 a, V16 n) {
  const __m512i e =
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23);
  return {_mm512_mul_ps(a.v, _mm512_castsi512_ps(e))};
}
// 16 pairs of bf16: the even and the odd members as floats.
TRIREME_INLINE void load_pairs(const BF16* p, V16& even, V16& odd) {
  const __m512i u = _mm512_loadu_si512(p);
  even.v = _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
  odd.v = _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32(-65536)));
}
TRIREME_INLINE V16 load_bf16_n(const BF16* p, int n) {
  const __m256i u = _mm256_maskz_loadu_epi16(first_lanes(n), p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(u), 16))};
}

#elif defined(TRIREME_ISA_avx2)

struct V16 {
  __m256 a, b;
};
TRIREME_INLINE V16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
TRIREME_INLINE V16 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
TRIREME_INLINE V16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
TRIREME_INLINE V16 load(const F16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
TRIREME_INLINE void store(float* p, V16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
// The first n lanes from memory, the others zero; nothing is read past them.
TRIREME_INLINE V16 load_n(const float* p, int n) {
  alignas(32) float t[16] = {};
  std::memcpy(t, p, static_cast<size_t>(n) * sizeof(float));
  return load(t);
}
TRIREME_INLINE void store_n(float* p, V16 x, int n) {
  alignas(32) float t[16];
  store(t, x);
  std::memcpy(p, t, static_cast<size_t>(n) * sizeof(float));
}
TRIREME_INLINE V16 operator+(V16 x, V16 y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
TRIREME_INLINE V16 operator-(V16 x, V16 y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
TRIREME_INLINE V16 operator*(V16 x, V16 y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
TRIREME_INLINE V16 operator/(V16 x, V16 y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
TRIREME_INLINE V16 max(V16 x, V16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
TRIREME_INLINE V16 min(V16 x, V16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
// x * y + z, rounded once.
TRIREME_INLINE V16 fma(V16 x, V16 y, V16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
TRIREME_INLINE V16 round_nearest(V16 x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}
// x * 2^n, n whole and in [-126, 127].
TRIREME_INLINE V16 scale_by_power_of_two(V16 x, V16 n) {
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.a), bias), 23);
  const __m256i f = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.b), bias), 23);
  return {_mm256_mul_ps(x.a, _mm256_castsi256_ps(e)), _mm256_mul_ps(x.b, _mm256_castsi256_ps(f))};
}
// 16 pairs of bf16: the even and the odd members as floats.
TRIREME_INLINE void load_pairs(const BF16* p, V16& even, V16& odd) {
  const __m256i u = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
  const __m256i high = _mm256_set1_epi32(-65536);
  even = {_mm256_castsi256_ps(_mm256_slli_epi32(u, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(w, 16))};
  odd = {_mm256_castsi256_ps(_mm256_and_si256(u, high)),
         _mm256_castsi256_ps(_mm256_and_si256(w, high))};
}

#else

struct V16 {
  float v[16];
};
#define TRIREME_LANES _Pragma("GCC unroll 16") for (int i = 0; i < 16; ++i)
TRIREME_INLINE V16 splat(float x) {
  V16 r;
  TRIREME_LANES r.v[i] = x;
  return r;
}
TRIREME_INLINE V16 zero() { return splat(0.0F); }
TRIREME_INLINE V16 load(const float* p) {
  V16 r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
TRIREME_INLINE V16 load(const F16* p) {
  V16 r;
  TRIREME_LANES r.v[i] = to_float(p[i]);
  return r;
}
TRIREME_INLINE void store(float* p, V16 a) { std::memcpy(p, a.v, sizeof a.v); }
// The first n lanes from memory, the others zero; nothing is read past them.
TRIREME_INLINE V16 load_n(const float* p, int n) {
  V16 r = zero();
  std::memcpy(r.v, p, static_cast<size_t>(n) * sizeof(float));
  return r;
}
TRIREME_INLINE void store_n(float* p, V16 a, int n) {
  std::memcpy(p, a.v, static_cast<size_t>(n) * sizeof(float));
}
TRIREME_INLINE V16 operator+(V16 a, V16 b) {
  TRIREME_LANES a.v[i] += b.v[i];
  return a;
}
TRIREME_INLINE V16 operator-(V16 a, V16 b) {
  TRIREME_LANES a.v[i] -= b.v[i];
  return a;
}
TRIREME_INLINE V16 operator*(V16 a, V16 b) {
  TRIREME_LANES a.v[i] *= b.v[i];
  return a;
}
TRIREME_INLINE V16 operator/(V16 a, V16 b) {
  TRIREME_LANES a.v[i] /= b.v[i];
  return a;
}
TRIREME_INLINE V16 max(V16 a, V16 b) {
  TRIREME_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
TRIREME_INLINE V16 min(V16 a, V16 b) {
  TRIREME_LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
// a * b + c. Baseline processors have no fused instruction: rounded twice, here and everywhere.
TRIREME_INLINE V16 fma(V16 a, V16 b, V16 c) {
  TRIREME_LANES a.v[i] = a.v[i] * b.v[i] + c.v[i];
  return a;
}
TRIREME_INLINE V16 round_nearest(V16 a) {
  // Adding and taking away 1.5 * 2^23 rounds |a| < 2^22 to a whole number, ties to even.
  TRIREME_LANES a.v[i] = (a.v[i] + 12582912.0F) - 12582912.0F;
  return a;
}
// a * 2^n, n whole and in [-126, 127].
TRIREME_INLINE V16 scale_by_power_of_two(V16 a, V16 n) {
  TRIREME_LANES a.v[i] *=
      std::bit_cast<float>(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23U);
  return a;
}
// 16 pairs of bf16: the even and the odd members as floats.
TRIREME_INLINE void load_pairs(const BF16* p, V16& even, V16& odd) {
  TRIREME_LANES {
    even.v[i] = to_float(p[2 * i]);
    odd.v[i] = to_float(p[2 * i + 1]);
  }
}

#endif

#if !defined(TRIREME_ISA_avx512)
// The first n of 16 bf16 numbers, the others zero; nothing is read past them.
TRIREME_INLINE V16 load_bf16_n(const BF16* p, int n) {
  float t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = to_float(p[i]);
  return load(t);
}
#endif

// The first n lanes, rounded as to_bf16() does.
#if defined(TRIREME_ISA_avx512)
TRIREME_INLINE void store_bf16_n(BF16* p, V16 a, int n) {
  const __m512i u = _mm512_castps_si512(a.v);
  const __m512i upper = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i bits = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtepi32_epi16(bits));
}
#else
TRIREME_INLINE void store_bf16_n(BF16* p, V16 a, int n) {
  float t[16];
  store(t, a);
  for (int i = 0; i < n; ++i) p[i] = to_bf16(t[i]);
}
#endif

// The sum of the lanes, always in the same order: halves added until one is left.
TRIREME_INLINE float sum_lanes(V16 a) {
#if defined(TRIREME_ISA_avx512)
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float t[16];
  store(t, a);
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) t[i] += t[i + width];
  }
  return t[0];
#endif
}

TRIREME_INLINE float max_lanes(V16 a) {
#if defined(TRIREME_ISA_avx512)
  return _mm512_reduce_max_ps(a.v);
#else
  float t[16];
  store(t, a);
  float m = t[0];
  for (int i = 1; i < 16; ++i) m = t[i] > m ? t[i] : m;
  return m;
#endif
}

// e^x for x <= 88, relative error below 2e-7; x below -87 gives zero.
TRIREME_INLINE V16 exp_lanes(V16 x) {
  const V16 clamped = max(min(x, splat(88.0F)), splat(-87.0F));
  const V16 n = round_nearest(clamped * splat(1.44269504F));
  V16 r = fma(n, splat(-0.693145752F), clamped);  // ln 2 in two parts
  r = fma(n, splat(-1.42860682e-6F), r);
  V16 s = splat(1.0F / 5040.0F);
  s = fma(s, r, splat(1.0F / 720.0F));
  s = fma(s, r, splat(1.0F / 120.0F));
  s = fma(s, r, splat(1.0F / 24.0F));
  s = fma(s, r, splat(1.0F / 6.0F));
  s = fma(s, r, splat(0.5F));
  s = fma(s, r, splat(1.0F));
  s = fma(s, r, splat(1.0F));
  const V16 y = scale_by_power_of_two(s, n);
#if defined(TRIREME_ISA_avx512)
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-87.0F), _CMP_GE_OQ), y.v)};
#elif defined(TRIREME_ISA_avx2)
  const __m256 low = _mm256_set1_ps(-87.0F);
  return {_mm256_and_ps(y.a, _mm256_cmp_ps(x.a, low, _CMP_GE_OQ)),
          _mm256_and_ps(y.b, _mm256_cmp_ps(x.b, low, _CMP_GE_OQ))};
#else
  V16 z;
  TRIREME_LANES z.v[i] = x.v[i] >= -87.0F ? y.v[i] : 0.0F;
  return z;
#endif
}

}  // namespace trireme::TRIREME_ISA
