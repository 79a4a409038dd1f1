#include "tests/bench/arithmetic.h"

#ifdef __AVX2__
#include <immintrin.h>

#include "tests/bench/arithmetic_loop.h"

namespace trireme::bench {
namespace {

void f32_loop(int64_t n_rounds) {
  const __m256 x = _mm256_set1_ps(1.0F);
  run_chains<__m256>(n_rounds, [&](__m256& sum) {
    asm volatile("vfmadd231ps %1, %1, %0" : "+x"(sum) : "x"(x));
  });
}

}  // namespace

Arithmetic avx2_arithmetic() {
  Arithmetic a;
  a.f32 = f32_loop;
  a.f32_operations = kChains * 16;
  return a;
}

}  // namespace trireme::bench

#else
namespace trireme::bench {
Arithmetic avx2_arithmetic() { return {}; }
}  // namespace trireme::bench
#endif
