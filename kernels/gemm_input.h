#pragma once

#include <cstdint>
#include <span>

#include "kernels/int_math.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

namespace trireme {

constexpr int kSumGroup = 32;  // quantized inputs that share one entry of GemmInput::sums

// Columns [column, column + n) of an activation: what one leaf of the weight multiplies. Quantized,
// a span's blocks of kQuantBlock start anew at its first column, so no scale reaches into another
// leaf, whoever owns that.
struct InputSpan {
  int32_t column = 0;
  int32_t n = 0;
  int32_t place = 0;  // where the span's first value stands in GemmInput's rows
};

// The left side of a linear layer, in the type its weights' format asks for: float32 (kF32, kF16),
// bf16 (kBF16), or int8 (kI8, kI4) with x = q * scale, one scale for each row and block of
// kQuantBlock places. Whatever lies between a span's end and the next place is zero.
struct GemmInput {
  Tensor values;                     // [n_rows, columns]; row_stride covers all places
  float* scales = nullptr;           // int8: [n_rows][row_stride / kQuantBlock]
  int32_t* sums = nullptr;           // int8: [n_rows][row_stride / kSumGroup], sums of the values
  std::span<const InputSpan> spans;  // in column order; one a block of a row-parallel weight
};

// Activations between GEMMs are float32; this is what they are turned into for a GEMM.
constexpr DType gemm_input_dtype(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kF16: return DType::kF32;
    case WeightFormat::kBF16: return DType::kBF16;
    case WeightFormat::kI8:
    case WeightFormat::kI4: return DType::kI8;
  }
  return DType::kF32;
}

// Spans begin at multiples of this in a row.
constexpr int64_t input_place_step(DType dtype) { return dtype == DType::kI8 ? kQuantBlock : 1; }

}  // namespace trireme
