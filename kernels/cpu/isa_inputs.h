#pragma once

// Writing rows of a GEMM input: the one place where activations are rounded or quantized. Private
// to isa_kernels.cpp.

#include <algorithm>

#include "kernels/cpu/int_lanes.h"
#include "kernels/cpu/isa_quantize.h"
#include "kernels/gemm_input.h"

namespace trireme::TRIREME_ISA {

// One block of n <= kQuantBlock inputs. Writes whole groups of 16, zeros behind the n-th.
inline void quantize_block(const float* x, int64_t n, int8_t* q, float* scale, int32_t* sums) {
  const Int8Scale block(x, n);
  *scale = block.scale();
  for (int64_t group = 0; group < n; group += kSumGroup) {
    I16 sum = splat_int(0);
    for (int64_t i = group; i < std::min<int64_t>(n, group + kSumGroup); i += 16) {
      const I16 v = to_ints(block.quantize(load_n(x + i, lanes_left(n, i))));
      store_int8(q + i, v);
      sum = sum + v;
    }
    sums[group / kSumGroup] = sum_lanes(sum);
  }
}

// Values [offset, offset + n) of a span, from `x`; offset a multiple of kQuantBlock, n at most that
// where the input is quantized.
inline void put_inputs(const GemmInput& out, int64_t row, const InputSpan& span, int64_t offset,
                       const float* x, int64_t n) {
  const int64_t place = span.place + offset;
  const int64_t stride = out.values.row_stride;
  switch (out.values.dtype) {
    case DType::kF32:
      std::copy_n(x, n, static_cast<float*>(out.values.data) + row * stride + place);
      return;
    case DType::kBF16: {
      BF16* to = static_cast<BF16*>(out.values.data) + row * stride + place;
      for (int64_t i = 0; i < n; i += 16) {
        const int lanes = lanes_left(n, i);
        store_bf16_n(to + i, load_n(x + i, lanes), lanes);
      }
      return;
    }
    default:
      quantize_block(x, n, static_cast<int8_t*>(out.values.data) + row * stride + place,
                     out.scales + (row * stride + place) / kQuantBlock,
                     out.sums + (row * stride + place) / kSumGroup);
  }
}

// Calls body(span, offset, n) for pieces that tile all columns and may be written on their own.
template <typename Body>
TRIREME_INLINE void for_each_piece(const GemmInput& out, const Body& body) {
  for (const InputSpan& span : out.spans) {
    for (int64_t offset = 0; offset < span.n; offset += kQuantBlock) {
      body(span, offset, std::min<int64_t>(kQuantBlock, span.n - offset));
    }
  }
}

// A whole row, from its logical columns.
TRIREME_INLINE void put_row(const GemmInput& out, int64_t row, const float* x) {
  for_each_piece(out, [&](const InputSpan& span, int64_t offset, int64_t n) {
    put_inputs(out, row, span, offset, x + span.column + offset, n);
  });
}

}  // namespace trireme::TRIREME_ISA
