#pragma once

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/weight.h"

namespace trireme {

// Quantizers of one group of each of a panel's columns. x: [k][kPanelColumns] finite; q:
// [k][kPanelColumns], one number a byte as it is stored; scales: [kPanelColumns]. Plain float32
// arithmetic in a fixed order: the same bytes on every machine. A column whose numbers are all
// below 2^-100 becomes zero.

// scale = the smallest bf16 that is not below amax / 127, q = x / scale to nearest.
void quantize_int8(const float* x, int64_t k, uint8_t* q, BF16* scales);

// q in [-8, 7] about a centre of 8. Of a few bf16 scales of both signs, the one with the least
// squared error: the number of the largest magnitude lies at or beyond -8 or 7.
void quantize_int4(const float* x, int64_t k, uint8_t* q, BF16* scales);

}  // namespace trireme
