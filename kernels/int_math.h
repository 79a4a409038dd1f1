#pragma once

#include <concepts>

#include "kernels/check.h"

namespace trireme {

template <std::integral T>
constexpr T div_ceil(T a, T b) {
  return (a + b - 1) / b;
}

template <std::integral T>
constexpr T round_up(T a, T b) {
  return div_ceil(a, b) * b;
}

// a / b where b must divide a.
template <std::integral T>
T div_exact(T a, T b) {
  TRIREME_CHECK(b != 0 && a % b == 0);
  return a / b;
}

}  // namespace trireme
