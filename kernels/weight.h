#pragma once

#include <cstdint>
#include <span>

#include "kernels/bf16.h"
#include "kernels/int_math.h"
#include "kernels/tensor.h"

namespace trireme {

// How a packed weight's numbers are stored.
enum class WeightFormat : uint8_t { kF32 = 0, kBF16 = 1, kF16 = 2, kI8 = 3, kI4 = 4 };

// A format with what its integers mean: w = (q - zero) * scale, one scale for each column and group
// of consecutive K.
struct WeightEncoding {
  WeightFormat format = WeightFormat::kBF16;
  int16_t group = 0;       // K that share a scale, counted from the block's first; 0: no scales
  bool has_zeros = false;  // kI4: a zero point for each scale; else it is kCenterI4
  bool operator==(const WeightEncoding&) const = default;
};

constexpr int kPanelColumns = 16;  // lanes are output columns
constexpr int kQuantBlock = 256;   // inputs of a GEMM that are quantized with one scale
constexpr int kCenterI8 = 128;     // kI8 stores q + 128
constexpr int kCenterI4 = 8;       // kI4 stores q + 8

constexpr bool is_quantized(WeightFormat format) { return format >= WeightFormat::kI8; }

// K inside a block is padded to a multiple of this.
constexpr int k_step(WeightFormat format) {
  switch (format) {
    case WeightFormat::kI8: return 4;
    case WeightFormat::kI4: return 8;
    default: return 2;
  }
}

// The usual encoding of a format: groups of 256 (int8) or 32 (int4), no zero points.
constexpr WeightEncoding default_encoding(WeightFormat format) {
  switch (format) {
    case WeightFormat::kI8: return {format, 256, false};
    case WeightFormat::kI4: return {format, 32, false};
    default: return {format, 0, false};
  }
}

// One separately owned piece of a linear layer's weight [n, k], packed for the kernels: a leaf of a
// row-parallel layer, the columns of one leaf or KV head of a column-parallel layer, or 1024
// columns of the vocabulary. Columns are padded to 16 and K to k_step(), with numbers that count as
// zero. Two or four consecutive K of one column lie side by side:
//   kF32:  [n_padded / 16][k_padded][16] float
//   kF16:  [n_padded / 16][k_padded][16] IEEE half
//   kBF16: [n_padded / 16][k_padded / 2][16][2] bf16
//   kI8:   [n_padded / 16][k_padded / 4][16][4] uint8, q + 128 with q in [-127, 127]
//   kI4:   [n_padded / 16][k_padded / 8][16][4] uint8: byte j of a column's four holds K = 8 i + j
//          in its low half and K = 8 i + 4 + j in its high half, q + 8 or as the zero point says
//   scales [n_padded / 16][k_groups][16] bf16 (0 in padded columns), zeros the same, uint8.
struct WeightBlock {
  const void* data = nullptr;      // 64-byte aligned
  const BF16* scales = nullptr;    // kI8, kI4
  const uint8_t* zeros = nullptr;  // kI4 with zero points
  const float* bias = nullptr;     // [n_padded], or null
  int32_t n = 0;                   // output columns in this block
  int32_t k = 0;                   // inputs in this block
  int32_t out_begin = 0;           // where its columns go in the output row
};

constexpr int64_t n_padded(int64_t n) { return round_up<int64_t>(n, kPanelColumns); }
constexpr int64_t k_padded(WeightFormat format, int64_t k) {
  return round_up<int64_t>(k, k_step(format));
}
// Bytes of `count` numbers; for kI4 a multiple of two.
constexpr int64_t weight_bytes(WeightFormat format, int64_t count) {
  switch (format) {
    case WeightFormat::kF32: return count * 4;
    case WeightFormat::kBF16:
    case WeightFormat::kF16: return count * 2;
    case WeightFormat::kI8: return count;
    case WeightFormat::kI4: return count / 2;
  }
  return 0;
}
constexpr int64_t k_groups(WeightEncoding encoding, int64_t k) {
  return encoding.group == 0 ? 0 : div_ceil<int64_t>(k, encoding.group);
}

// Where the parts of a packed block lie, in bytes from its start; each 64-byte aligned.
struct BlockParts {
  int64_t scales = 0;
  int64_t zeros = 0;
  int64_t size = 0;  // of all of them
};
constexpr BlockParts block_parts_of(WeightEncoding encoding, int64_t n, int64_t k) {
  constexpr int64_t kAlignment = 64;
  const int64_t data = weight_bytes(encoding.format, n_padded(n) * k_padded(encoding.format, k));
  const int64_t n_scales = n_padded(n) * k_groups(encoding, k);
  BlockParts parts;
  parts.scales = round_up(data, kAlignment);
  parts.zeros = round_up(parts.scales + n_scales * 2, kAlignment);
  parts.size = parts.zeros + (encoding.has_zeros ? n_scales : 0);
  if (encoding.group == 0) parts = {data, data, data};
  return parts;
}

// What one rank holds of a linear layer: out = x @ w.T. Blocks in leaf order.
struct Weight {
  WeightEncoding encoding;
  Device device;
  std::span<const WeightBlock> blocks;
  int32_t n_out = 0;  // width of the rank's output row
  int32_t k_in = 0;   // width of the rank's input row

  WeightFormat format() const { return encoding.format; }
};

}  // namespace trireme
