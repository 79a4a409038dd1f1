#pragma once

// Sixteen int32 lanes and the 64 weight bytes that feed them, in the registers of the instruction
// set this file is compiled for. Private to isa_kernels.cpp.

#include "kernels/cpu/vec16.h"

namespace trireme::TRIREME_ISA {

#if defined(TRIREME_ISA_avx512)

struct I16 {
  __m512i v;
};
struct Bytes64 {
  __m512i v;
};
TRIREME_INLINE I16 splat_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
TRIREME_INLINE void store(int32_t* p, I16 a) { _mm512_storeu_si512(p, a.v); }
TRIREME_INLINE I16 load_ints(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
TRIREME_INLINE V16 to_floats(I16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
// Whole numbers as int32.
TRIREME_INLINE I16 to_ints(V16 a) { return {_mm512_cvtps_epi32(a.v)}; }
TRIREME_INLINE I16 operator+(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
// Lanes in [-128, 127].
TRIREME_INLINE void store_int8(int8_t* p, I16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
TRIREME_INLINE int32_t sum_lanes(I16 a) { return _mm512_reduce_add_epi32(a.v); }
TRIREME_INLINE Bytes64 load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
TRIREME_INLINE Bytes64 low_halves(Bytes64 a) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))};
}
TRIREME_INLINE Bytes64 high_halves(Bytes64 a) {
  return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
// acc[lane] += sum of w[4 lane + j] * x[j], w unsigned, x four int8. As inline assembly because
// g++ 12 copies and spills accumulators around the intrinsic.
TRIREME_INLINE void add_dots(I16& acc, Bytes64 w, int32_t x) {
  const __m512i q = _mm512_set1_epi32(x);
  asm("vpdpbusd %2,%1,%0" : "+v"(acc.v) : "v"(w.v), "v"(q));
}
// The same for w - 128, but for what start_i8() adds.
TRIREME_INLINE void add_dots_i8(I16& acc, Bytes64 w, int32_t x) { add_dots(acc, w, x); }
TRIREME_INLINE I16 start_i8(int32_t x_sum) { return splat_int(-kCenterI8 * x_sum); }
// Zero points of 16 columns, as times_sum() takes them.
TRIREME_INLINE I16 load_zeros(const uint8_t* zeros) {
  const __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
  return {_mm512_and_si512(_mm512_sub_epi32(_mm512_setzero_si512(), z), _mm512_set1_epi32(0xffff))};
}
TRIREME_INLINE I16 splat_zero(int32_t zero_point) { return splat_int(-zero_point & 0xffff); }
// -zero * sum in each lane; both fit 16 bits.
TRIREME_INLINE I16 times_sum(I16 zeros, int32_t sum) {
  return {_mm512_madd_epi16(zeros.v, _mm512_set1_epi32(sum))};
}

#elif defined(TRIREME_ISA_avx2)

struct I16 {
  __m256i a, b;
};
struct Bytes64 {
  __m256i a, b;
};
TRIREME_INLINE const __m256i* as_m256i(const void* p) { return static_cast<const __m256i*>(p); }
TRIREME_INLINE I16 splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
TRIREME_INLINE void store(int32_t* p, I16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
TRIREME_INLINE I16 load_ints(const int32_t* p) {
  return {_mm256_loadu_si256(as_m256i(p)), _mm256_loadu_si256(as_m256i(p + 8))};
}
TRIREME_INLINE V16 to_floats(I16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
TRIREME_INLINE I16 to_ints(V16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
TRIREME_INLINE I16 operator+(I16 x, I16 y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
TRIREME_INLINE Bytes64 load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(as_m256i(p)), _mm256_loadu_si256(as_m256i(p + 32))};
}
TRIREME_INLINE Bytes64 low_halves(Bytes64 x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
TRIREME_INLINE Bytes64 high_halves(Bytes64 x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(x.a, 4), mask),
          _mm256_and_si256(_mm256_srli_epi16(x.b, 4), mask)};
}
// vpmaddubsw saturates its sums of two products at 16 bits. u is at most 15 or, for w - 128, the
// magnitude of w with x given its sign: 2 * 128 * 127 stays below 2^15.
TRIREME_INLINE __m256i dots(__m256i acc, __m256i u, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(u, x);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
TRIREME_INLINE void add_dots(I16& acc, Bytes64 w, int32_t x) {
  const __m256i q = _mm256_set1_epi32(x);
  acc.a = dots(acc.a, w.a, q);
  acc.b = dots(acc.b, w.b, q);
}
TRIREME_INLINE void add_dots_i8(I16& acc, Bytes64 w, int32_t x) {
  const __m256i q = _mm256_set1_epi32(x);
  const __m256i center = _mm256_set1_epi8(-128);
  const __m256i a = _mm256_xor_si256(w.a, center);
  const __m256i b = _mm256_xor_si256(w.b, center);
  acc.a = dots(acc.a, _mm256_abs_epi8(a), _mm256_sign_epi8(q, a));
  acc.b = dots(acc.b, _mm256_abs_epi8(b), _mm256_sign_epi8(q, b));
}
TRIREME_INLINE I16 start_i8(int32_t) { return splat_int(0); }
TRIREME_INLINE I16 load_zeros(const uint8_t* zeros) {
  const __m128i z = _mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros));
  return {_mm256_sub_epi32(_mm256_setzero_si256(), _mm256_cvtepu8_epi32(z)),
          _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_cvtepu8_epi32(_mm_srli_si128(z, 8)))};
}
TRIREME_INLINE I16 splat_zero(int32_t zero_point) { return splat_int(-zero_point); }
TRIREME_INLINE I16 times_sum(I16 zeros, int32_t sum) {
  const __m256i s = _mm256_set1_epi32(sum);
  return {_mm256_mullo_epi32(zeros.a, s), _mm256_mullo_epi32(zeros.b, s)};
}

#else

struct I16 {
  int32_t v[16];
};
struct Bytes64 {
  uint8_t v[64];
};
TRIREME_INLINE I16 splat_int(int32_t x) {
  I16 r;
  TRIREME_LANES r.v[i] = x;
  return r;
}
TRIREME_INLINE void store(int32_t* p, I16 a) { std::memcpy(p, a.v, sizeof a.v); }
TRIREME_INLINE I16 load_ints(const int32_t* p) {
  I16 r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
TRIREME_INLINE V16 to_floats(I16 a) {
  V16 r;
  TRIREME_LANES r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
TRIREME_INLINE I16 to_ints(V16 a) {
  I16 r;
  TRIREME_LANES r.v[i] = static_cast<int32_t>(a.v[i]);
  return r;
}
TRIREME_INLINE I16 operator+(I16 a, I16 b) {
  TRIREME_LANES a.v[i] += b.v[i];
  return a;
}
TRIREME_INLINE Bytes64 load_bytes(const uint8_t* p) {
  Bytes64 r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
TRIREME_INLINE Bytes64 low_halves(Bytes64 a) {
  for (uint8_t& x : a.v) x &= 15U;
  return a;
}
TRIREME_INLINE Bytes64 high_halves(Bytes64 a) {
  for (uint8_t& x : a.v) x = static_cast<uint8_t>(x >> 4U);
  return a;
}
TRIREME_INLINE void add_dots_from(I16& acc, const Bytes64& w, int32_t x, int32_t center) {
  int8_t q[4];
  std::memcpy(q, &x, sizeof q);
  TRIREME_LANES {
    for (int j = 0; j < 4; ++j) acc.v[i] += (w.v[4 * i + j] - center) * q[j];
  }
}
TRIREME_INLINE void add_dots(I16& acc, const Bytes64& w, int32_t x) { add_dots_from(acc, w, x, 0); }
TRIREME_INLINE void add_dots_i8(I16& acc, const Bytes64& w, int32_t x) {
  add_dots_from(acc, w, x, kCenterI8);
}
TRIREME_INLINE I16 start_i8(int32_t) { return splat_int(0); }
TRIREME_INLINE I16 load_zeros(const uint8_t* zeros) {
  I16 r;
  TRIREME_LANES r.v[i] = -zeros[i];
  return r;
}
TRIREME_INLINE I16 splat_zero(int32_t zero_point) { return splat_int(-zero_point); }
TRIREME_INLINE I16 times_sum(I16 zeros, int32_t sum) {
  TRIREME_LANES zeros.v[i] *= sum;
  return zeros;
}

#endif

#if !defined(TRIREME_ISA_avx512)
TRIREME_INLINE void store_int8(int8_t* p, I16 a) {
  int32_t t[16];
  store(t, a);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(t[i]);
}
TRIREME_INLINE int32_t sum_lanes(I16 a) {
  int32_t t[16];
  store(t, a);
  int32_t total = 0;
  for (const int32_t x : t) total += x;
  return total;
}
#endif

// 16 bf16 numbers as floats.
TRIREME_INLINE V16 load_bf16(const BF16* p) { return load_bf16_n(p, 16); }

}  // namespace trireme::TRIREME_ISA
