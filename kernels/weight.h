#pragma once

#include <cstdint>
#include <span>

#include "kernels/int_math.h"
#include "kernels/tensor.h"

namespace trireme {

// How a packed weight's numbers are stored.
enum class WeightFormat : uint8_t { kF32 = 0, kBF16 = 1 };

constexpr int kPanelColumns = 16;  // lanes are output columns
constexpr int kKStep = 2;          // K inside a block is padded with zeros to this

// One separately owned piece of a linear layer's weight [n, k], packed for the kernels: a leaf of a
// row-parallel layer, the columns of one leaf or KV head of a column-parallel layer, or 1024
// columns of the vocabulary. Columns are padded with zeros to 16 and K to 2:
//   kF32:  [n_padded / 16][k_padded][16] float
//   kBF16: [n_padded / 16][k_padded / 2][16][2] bf16   (two consecutive K of one column side by
//   side)
struct WeightBlock {
  const void* data = nullptr;   // 64-byte aligned
  const float* bias = nullptr;  // [n_padded], or null
  int32_t n = 0;                // output columns in this block
  int32_t k = 0;                // inputs in this block
  int32_t out_begin = 0;        // where its columns go in the output row
  int32_t k_begin = 0;          // where its inputs start in the input row
};

constexpr int64_t n_padded(int64_t n) { return round_up<int64_t>(n, kPanelColumns); }
constexpr int64_t k_padded(int64_t k) { return round_up<int64_t>(k, kKStep); }
constexpr int64_t weight_element_size(WeightFormat format) {
  return format == WeightFormat::kF32 ? 4 : 2;
}
constexpr int64_t packed_block_bytes(WeightFormat format, int64_t n, int64_t k) {
  return n_padded(n) * k_padded(k) * weight_element_size(format);
}

// What one rank holds of a linear layer: out = x @ w.T. Blocks in leaf order.
struct Weight {
  WeightFormat format = WeightFormat::kBF16;
  Device device;
  std::span<const WeightBlock> blocks;
  int32_t n_out = 0;  // width of the rank's output row
  int32_t k_in = 0;   // width of the rank's input row
};

}  // namespace trireme
