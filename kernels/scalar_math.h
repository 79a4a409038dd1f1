#pragma once

namespace trireme {

// Elementary functions in plain double arithmetic (no libm, no fused multiply-add), so that every
// machine gets the same bits. Relative error below 1e-14 in the ranges given. For set-up work and
// small counts; the kernels have vector versions in float.
double portable_exp(double x);                      // |x| <= 700, saturates outside
double portable_log(double x);                      // x > 0 and normal
double portable_pow(double base, double exponent);  // base > 0
double portable_sin(double x);                      // |x| <= 2^30
double portable_cos(double x);                      // |x| <= 2^30

}  // namespace trireme
