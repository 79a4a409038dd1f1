#include "kernels/scalar_math.h"

#include <bit>
#include <cstdint>

#include "kernels/check.h"

namespace trireme {
namespace {

constexpr double kLn2High = 0x1.62e42fefa3800p-1;  // ln 2 in 41 bits: n * kLn2High is exact
constexpr double kLn2Low = 0x1.ef35793c76730p-45;  // the rest of ln 2
constexpr double kInvLn2 = 0x1.71547652b82fep+0;

double scale_by_power_of_two(double x, int64_t exponent) {
  return x * std::bit_cast<double>(static_cast<uint64_t>(exponent + 1023) << 52U);
}

// Nearest integer, halves away from zero; |x| < 2^31.
int64_t nearest(double x) { return static_cast<int64_t>(x < 0 ? x - 0.5 : x + 0.5); }

// pi / 2 in three parts of 33 bits, so that n * part is exact for |n| < 2^20; then the remainder.
constexpr double kHalfPi1 = 0x1.921fb54400000p+0;
constexpr double kHalfPi2 = 0x1.0b4611a600000p-34;
constexpr double kHalfPi3 = 0x1.3198a2e037073p-69;

struct Reduced {
  double r = 0;  // in [-pi/4, pi/4]
  int64_t quadrant = 0;
};

Reduced reduce_angle(double x) {
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  const int64_t n = nearest(x * kTwoOverPi);
  const auto d = static_cast<double>(n);
  return {((x - d * kHalfPi1) - d * kHalfPi2) - d * kHalfPi3, n & 3};
}

// Taylor series on [-pi/4, pi/4]: the first term left out is below 1e-17.
double sin_series(double r) {
  const double z = r * r;
  double s = -1.0 / 121645100408832000.0;  // 1 / 19!
  s = s * z + 1.0 / 355687428096000.0;
  s = s * z - 1.0 / 1307674368000.0;
  s = s * z + 1.0 / 6227020800.0;
  s = s * z - 1.0 / 39916800.0;
  s = s * z + 1.0 / 362880.0;
  s = s * z - 1.0 / 5040.0;
  s = s * z + 1.0 / 120.0;
  s = s * z - 1.0 / 6.0;
  return r + r * z * s;
}

double cos_series(double r) {
  const double z = r * r;
  double s = 1.0 / 20922789888000.0;  // 1 / 16!
  s = s * z - 1.0 / 87178291200.0;
  s = s * z + 1.0 / 479001600.0;
  s = s * z - 1.0 / 3628800.0;
  s = s * z + 1.0 / 40320.0;
  s = s * z - 1.0 / 720.0;
  s = s * z + 1.0 / 24.0;
  s = s * z - 1.0 / 2.0;
  return 1.0 + z * s;
}

}  // namespace

double portable_exp(double x) {
  x = x < -700.0 ? -700.0 : (x > 700.0 ? 700.0 : x);
  const int64_t n = nearest(x * kInvLn2);
  const auto d = static_cast<double>(n);
  const double r = (x - d * kLn2High) - d * kLn2Low;  // |r| <= ln 2 / 2
  double s = 1.0;
  for (int i = 14; i >= 1; --i) s = 1.0 + s * r / i;
  return scale_by_power_of_two(s, n);
}

double portable_log(double x) {
  TRIREME_CHECK(x > 0);
  const auto bits = std::bit_cast<uint64_t>(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52U) - 1023;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  // log m = 2 atanh(t), t = (m - 1) / (m + 1), |t| <= 0.1716
  const double t = (m - 1.0) / (m + 1.0);
  const double z = t * t;
  double s = 0.0;
  for (int i = 21; i >= 1; i -= 2) s = s * z + 1.0 / i;
  const auto e = static_cast<double>(exponent);
  return e * kLn2High + (2.0 * t * s + e * kLn2Low);
}

double portable_pow(double base, double exponent) {
  return portable_exp(exponent * portable_log(base));
}

double portable_sin(double x) {
  const Reduced a = reduce_angle(x);
  const double v = (a.quadrant & 1) != 0 ? cos_series(a.r) : sin_series(a.r);
  return (a.quadrant & 2) != 0 ? -v : v;
}

double portable_cos(double x) {
  const Reduced a = reduce_angle(x);
  const double v = (a.quadrant & 1) != 0 ? sin_series(a.r) : cos_series(a.r);
  return a.quadrant == 1 || a.quadrant == 2 ? -v : v;
}

}  // namespace trireme
