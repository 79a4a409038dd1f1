#include "tests/bench/arithmetic.h"

#ifdef __AVX512F__
#include <immintrin.h>

#include "tests/bench/arithmetic_loop.h"

namespace trireme::bench {
namespace {

void f32_loop(int64_t n_rounds) {
  const __m512 x = _mm512_set1_ps(1.0F);
  run_chains<__m512>(n_rounds, [&](__m512& sum) {
    asm volatile("vfmadd231ps %1, %1, %0" : "+v"(sum) : "v"(x));
  });
}

void bf16_loop(int64_t n_rounds) {
  const __m512i x = _mm512_set1_epi16(0x3F80);
  run_chains<__m512>(n_rounds, [&](__m512& sum) {
    asm volatile("vdpbf16ps %1, %1, %0" : "+v"(sum) : "v"(x));
  });
}

void int8_loop(int64_t n_rounds) {
  const __m512i x = _mm512_set1_epi8(1);
  run_chains<__m512i>(n_rounds, [&](__m512i& sum) {
    asm volatile("vpdpbusd %1, %1, %0" : "+v"(sum) : "v"(x));
  });
}

}  // namespace

Arithmetic avx512_arithmetic() {
  Arithmetic a;
  a.f32 = f32_loop;
  a.bf16 = bf16_loop;
  a.int8 = int8_loop;
  a.f32_operations = kChains * 32;
  a.bf16_operations = kChains * 64;
  a.int8_operations = kChains * 128;
  return a;
}

}  // namespace trireme::bench

#else
namespace trireme::bench {
Arithmetic avx512_arithmetic() { return {}; }
}  // namespace trireme::bench
#endif
