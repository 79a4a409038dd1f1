#pragma once

// Register tiles of the integer formats. Products of one block of kQuantBlock inputs are summed
// exactly, in int32; groups and then blocks are added in ascending order in float32:
//   part = sum over the block's groups of int_sum * weight_scale;  out = sum over blocks of part *
//   input_scale
// Private to isa_kernels.cpp.

#include <algorithm>

#include "kernels/cpu/int_lanes.h"
#include "kernels/cpu/isa_tiles.h"

namespace trireme::TRIREME_ISA {

// The rows of a quantized GEMM input from one place on, which is a multiple of kQuantBlock.
struct QuantRows {
  const int8_t* x;
  int64_t stride;
  const float* scales;
  const int32_t* sums;

  explicit QuantRows(const GemmInput& in)
      : x(static_cast<const int8_t*>(in.values.data)),
        stride(in.values.row_stride),
        scales(in.scales),
        sums(in.sums) {}
  int64_t scale_stride() const {
    return static_cast<int64_t>(static_cast<uint64_t>(stride) / kQuantBlock);
  }
  int64_t sum_stride() const {
    return static_cast<int64_t>(static_cast<uint64_t>(stride) / kSumGroup);
  }
  void skip_rows(int64_t n) {
    x += n * stride;
    scales += n * scale_stride();
    sums += n * sum_stride();
  }
  void skip_places(int64_t n) {
    x += n;
    scales += n / kQuantBlock;
    sums += n / kSumGroup;
  }
};

// Four inputs of one row.
TRIREME_INLINE int32_t four_inputs(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return four;
}

// The sum of inputs [0, n), rounded up to whole groups.
TRIREME_INLINE int32_t sum_of_inputs(const int32_t* sums, uint64_t n) {
  int32_t total = sums[0];
  for (uint64_t g = 1; g < div_ceil<uint64_t>(n, kSumGroup); ++g) total += sums[g];
  return total;
}

struct I8Linear {
  using Rows = QuantRows;
  static constexpr bool kAsksAlone = false;

  template <int MR, int NR, Ahead kAhead>
  static void tile(const Rows& x, const WeightBlock& w, WeightEncoding, int64_t panel,
                   const TileAhead& ahead, float* out) {
    const int64_t kp = k_padded(WeightFormat::kI8, w.k);
    const int64_t n_blocks = div_ceil<int64_t>(w.k, kQuantBlock);
    Block block;
    block.panel_bytes = kp * kPanelColumns;
    block.panel_scales = n_blocks * kPanelColumns;
    block.w = static_cast<const uint8_t*>(w.data) + panel * block.panel_bytes;
    block.scales = w.scales + panel * block.panel_scales;
    block.ahead = ahead;
    Rows rows = x;
    for (int64_t place = 0; place < kp; place += kQuantBlock) {
      block.steps = std::min<int64_t>(kp - place, kQuantBlock) / 4;
      add_block<MR, NR, kAhead>(rows, block, place == 0, out);
      rows.skip_places(kQuantBlock);
      block.w += kQuantBlock * kPanelColumns;
      block.scales += kPanelColumns;
      block.at += kQuantBlock * kPanelColumns;
    }
  }

 private:
  // One block of inputs in some panels.
  struct Block {
    const uint8_t* w;
    const BF16* scales;
    int64_t panel_bytes;
    int64_t panel_scales;
    int64_t steps;
    TileAhead ahead;
    int64_t at = 0;  // bytes from the panels' beginning
  };

  // Not inlined: in a loop over blocks g++ 12 keeps the accumulators in memory.
  template <int MR, int NR, Ahead kAhead>
  [[gnu::noinline]] static void add_block(const Rows& x, const Block& b, bool is_first,
                                          float* out) {
    I16 acc[MR][NR];
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      const I16 start = start_i8(sum_of_inputs(x.sums + i * x.sum_stride(), kQuantBlock));
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) acc[i][j] = start;
    }
    const uint8_t* wp[NR];
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) wp[j] = b.w + j * b.panel_bytes;
    for (int64_t s = 0; s < b.steps; ++s) {
      Bytes64 v[NR];
      ask_ahead<kAhead>(b.ahead, b.at + s * 64, b.panel_bytes);
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) v[j] = load_bytes(wp[j] + s * 64);
      TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
        const int32_t q = four_inputs(x.x + i * x.stride + s * 4);
        TRIREME_UNROLL for (int j = 0; j < NR; ++j) add_dots_i8(acc[i][j], v[j], q);
      }
    }
    if (is_first) {
      add_parts<MR, NR, true>(x, b, acc, out);
    } else {
      add_parts<MR, NR, false>(x, b, acc, out);
    }
  }

  // The block's part of each output; decided for all of them at once whether it is the first.
  template <int MR, int NR, bool kFirst>
  TRIREME_INLINE static void add_parts(const Rows& x, const Block& b, const I16 (&acc)[MR][NR],
                                       float* out) {
    V16 input_scales[MR];
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      input_scales[i] = splat(x.scales[i * x.scale_stride()]);
    }
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      const V16 scale = load_bf16(b.scales + j * b.panel_scales);
      TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
        float* to = out + i * kTileColumns + j * kPanelColumns;
        const V16 part = to_floats(acc[i][j]) * scale;
        store(to, fma(part, input_scales[i], kFirst ? zero() : load(to)));
      }
    }
  }
};

struct I4Linear {
  using Rows = QuantRows;
  static constexpr bool kAsksAlone = true;

  // Panels two at a time, so that int32 and float32 accumulators both stay in registers.
  template <int MR, int NR, Ahead kAhead>
  static void tile(const Rows& x, const WeightBlock& w, WeightEncoding encoding, int64_t panel,
                   const TileAhead& ahead, float* out) {
    constexpr int kPanels = MR <= 2 ? NR : std::min(NR, 2);
    // A pair asks for the pair that stands where it does, so one row tile asks for all of them.
    constexpr Ahead kAsked = kPanels == NR || kAhead == Ahead::kNone ? kAhead
                             : kAhead == Ahead::kSecondHalf          ? Ahead::kNone
                                                                     : Ahead::kFirstHalf;
    const int64_t panel_bytes = k_padded(WeightFormat::kI4, w.k) / 2 * kPanelColumns;
    const int64_t panel_scales = k_groups(encoding, w.k) * kPanelColumns;
    const int64_t block_scales = kQuantBlock / encoding.group * kPanelColumns;
    for (int j = 0; j < NR; j += kPanels) {
      const int64_t scales_at = (panel + j) * panel_scales;
      Block block;
      block.panel_bytes = panel_bytes;
      block.panel_scales = panel_scales;
      block.group = encoding.group;
      block.w = static_cast<const uint8_t*>(w.data) + (panel + j) * panel_bytes;
      block.scales = w.scales + scales_at;
      block.zeros = w.zeros == nullptr ? nullptr : w.zeros + scales_at;
      block.ahead = {static_cast<const char*>(ahead.data) + j * panel_bytes,
                     ahead.scales + j * panel_scales};
      block.at = 0;
      Rows rows = x;
      for (int64_t place = 0; place < w.k; place += kQuantBlock) {
        block.k = std::min<int64_t>(w.k - place, kQuantBlock);
        float* to = out + j * kPanelColumns;
        const bool whole_groups = encoding.group == kSumGroup && block.k % kSumGroup == 0;
        if (whole_groups && block.k == kQuantBlock) {
          add_block<MR, kPanels, kSumGroup, kQuantBlock, kAsked>(rows, block, place == 0, to);
        } else if (whole_groups) {
          add_block<MR, kPanels, kSumGroup, 0, kAsked>(rows, block, place == 0, to);
        } else {
          add_block<MR, kPanels, 0, 0, Ahead::kNone>(rows, block, place == 0, to);
        }
        rows.skip_places(kQuantBlock);
        block.w += kQuantBlock / 2 * kPanelColumns;
        block.at += kQuantBlock / 2 * kPanelColumns;
        block.scales += block_scales;
        block.ahead.scales += block_scales;
        if (block.zeros != nullptr) block.zeros += block_scales;
      }
    }
  }

 private:
  // What is left of one block of inputs in some panels.
  struct Block {
    const uint8_t* w;
    const BF16* scales;
    const uint8_t* zeros;
    int64_t panel_bytes;
    int64_t panel_scales;
    int64_t k;
    int64_t group;
    TileAhead ahead;  // its scales go along
    int64_t at;       // bytes from the panels' beginning
  };

  // Adds eight inputs, the low halves first: both halves at once would not leave room for the
  // accumulators.
  template <int MR, int NR>
  TRIREME_INLINE static void add_eight(const int8_t* x, int64_t x_stride, const uint8_t* w,
                                       int64_t panel_bytes, I16 (&acc)[MR][NR]) {
    Bytes64 v[NR];
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) v[j] = low_halves(load_bytes(w + j * panel_bytes));
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      const int32_t q = four_inputs(x + i * x_stride);
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) add_dots(acc[i][j], v[j], q);
    }
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) v[j] = high_halves(load_bytes(w + j * panel_bytes));
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      const int32_t q = four_inputs(x + i * x_stride + 4);
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) add_dots(acc[i][j], v[j], q);
    }
  }

  // kGroup: the size of the block's groups, which fill it, or 0 for any; kLength: of the block, or
  // 0 for any. Not inlined, as in I8Linear.
  template <int MR, int NR, int kGroup, int kLength, Ahead kAhead>
  [[gnu::noinline]] static void add_block(const Rows& x, const Block& b, bool is_first,
                                          float* out) {
    const int64_t group = kGroup == 0 ? b.group : kGroup;
    const int64_t n_all = kLength == 0 ? b.k : kLength;
    V16 part[MR][NR];
    clear_sums(part);
    int64_t first = 0;  // of the group's scales
    for (int64_t place = 0; place < n_all; place += group, first += kPanelColumns) {
      const int64_t end = kGroup == 0 ? std::min(place + group, n_all) : place + group;
      const int32_t* sums = x.sums + static_cast<uint64_t>(place) / kSumGroup;
      I16 acc[MR][NR];
      if constexpr (kAhead != Ahead::kNone) {
        TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
          __builtin_prefetch(b.ahead.scales + j * b.panel_scales + first, 0, 2);
        }
      }
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
        const I16 zeros = b.zeros == nullptr ? splat_zero(kCenterI4)
                                             : load_zeros(b.zeros + j * b.panel_scales + first);
        TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
          acc[i][j] = times_sum(
              zeros, sum_of_inputs(sums + i * x.sum_stride(), static_cast<uint64_t>(end - place)));
        }
      }
      for (int64_t k = place; k < end; k += 8) {
        ask_ahead<kAhead>(b.ahead, b.at + k * 8, b.panel_bytes);
        add_eight<MR, NR>(x.x + k, x.stride, b.w + k * 8, b.panel_bytes, acc);
      }
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
        const V16 scale = load_bf16(b.scales + j * b.panel_scales + first);
        TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
          part[i][j] = fma(to_floats(acc[i][j]), scale, part[i][j]);
        }
      }
    }
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      const V16 scale = splat(x.scales[i * x.scale_stride()]);
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
        float* to = out + i * kTileColumns + j * kPanelColumns;
        store(to, fma(part[i][j], scale, is_first ? zero() : load(to)));
      }
    }
  }
};

}  // namespace trireme::TRIREME_ISA
