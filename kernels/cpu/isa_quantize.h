#pragma once

// The one way floats become int8. Private to isa_kernels.cpp.

#include <algorithm>

#include "kernels/cpu/vec16.h"

namespace trireme::TRIREME_ISA {

TRIREME_INLINE int lanes_left(int64_t n, int64_t i) {
  return static_cast<int>(std::min<int64_t>(16, n - i));
}

// What n numbers become as whole numbers in [-127, 127] times one scale, the largest / 127. A
// number that is not finite makes the scale NaN, so that it is seen as it would be without
// quantization.
class Int8Scale {
 public:
  TRIREME_INLINE Int8Scale(const float* x, int64_t n) {
    V16 largest = zero();
    V16 poison = zero();  // 0 * infinity and 0 * NaN are NaN
    for (int64_t i = 0; i < n; i += 16) {
      const V16 v = load_n(x + i, lanes_left(n, i));
      largest = max(largest, max(v, zero() - v));
      poison = fma(v, zero(), poison);
    }
    const float most = max_lanes(largest);
    inverse_ = splat(most > 0.0F ? 127.0F / most : 0.0F);
    scale_ = most / 127.0F + sum_lanes(poison);
  }
  float scale() const { return scale_; }
  // In the range whatever x is, infinity and NaN included.
  TRIREME_INLINE V16 quantize(V16 x) const {
    return min(max(round_nearest(x * inverse_), splat(-127.0F)), splat(127.0F));
  }

 private:
  V16 inverse_;
  float scale_;
};

}  // namespace trireme::TRIREME_ISA
