#pragma once

// Register tiles of the float formats: rows of the input times panels of 16 columns. Every output
// element sums its K products in ascending order in one accumulator. Private to isa_kernels.cpp.

#include "kernels/cpu/isa_tile_shape.h"
#include "kernels/cpu/vec16.h"
#include "kernels/gemm_input.h"
#include "kernels/weight.h"

namespace trireme::TRIREME_ISA {

constexpr int kTileColumns = kTilePanels * kPanelColumns;

// While it computes, a tile can ask for the weights of a tile to come, at the place where it is
// itself: a few rows compute about as long as their weights take to come.
enum class Ahead { kNone, kFirstHalf, kSecondHalf, kAll };

// Where the panels of the tile to come begin, of the same block or another.
struct TileAhead {
  const void* data;
  const BF16* scales;  // null where the format has none
};

inline TileAhead tile_ahead(const WeightBlock& w, WeightEncoding encoding, int64_t panel) {
  const int64_t n = panel * kPanelColumns;
  const auto* data = static_cast<const char*>(w.data) +
                     weight_bytes(encoding.format, n * k_padded(encoding.format, w.k));
  return {data, w.scales == nullptr ? nullptr : w.scales + n * k_groups(encoding, w.k)};
}

// Asks for what stands `offset` bytes behind the beginning of each panel.
template <Ahead kAhead>
TRIREME_INLINE void ask_ahead(const TileAhead& ahead, int64_t offset, int64_t panel_bytes) {
  constexpr int kHalf = kTilePanels / 2;
  constexpr int kBegin = kAhead == Ahead::kSecondHalf ? kHalf : 0;
  constexpr int kEnd = kAhead == Ahead::kNone        ? kBegin
                       : kAhead == Ahead::kFirstHalf ? kHalf
                                                     : kTilePanels;
  TRIREME_UNROLL for (int j = kBegin; j < kEnd; ++j) {
    __builtin_prefetch(static_cast<const char*>(ahead.data) + offset + j * panel_bytes, 0, 2);
  }
}

// The rows of a GEMM input from one place on.
template <typename T>
struct DenseRows {
  const T* x;
  int64_t stride;

  explicit DenseRows(const GemmInput& in)
      : x(static_cast<const T*>(in.values.data)), stride(in.values.row_stride) {}
  void skip_rows(int64_t n) { x += n * stride; }
  void skip_places(int64_t n) { x += n; }
};

template <int MR, int NR>
TRIREME_INLINE void clear_sums(V16 (&acc)[MR][NR]) {
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) acc[i][j] = zero();
  }
}
template <int MR, int NR>
TRIREME_INLINE void store_sums(float* out, const V16 (&acc)[MR][NR]) {
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      store(out + i * kTileColumns + j * kPanelColumns, acc[i][j]);
    }
  }
}

// A format F multiplies by F::tile(): out [MR][kTileColumns], MR rows times NR panels of one block,
// asking ahead as kAhead says. kAsksAlone: a tile without others asks, too. int4 does so much with
// each line that the processor's own prefetching falls behind; the others are faster without while
// they read on and on.
template <typename T>
struct FloatLinear {
  using Rows = DenseRows<float>;
  static constexpr bool kAsksAlone = false;

  template <int MR, int NR, Ahead kAhead>
  static void tile(const Rows& x, const WeightBlock& w, WeightEncoding encoding, int64_t panel,
                   const TileAhead& ahead, float* out) {
    const int64_t kp = k_padded(encoding.format, w.k);
    const T* base = static_cast<const T*>(w.data) + panel * kp * kPanelColumns;
    V16 acc[MR][NR];
    clear_sums(acc);
    const T* wp[NR];
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) wp[j] = base + j * kp * kPanelColumns;
    for (int64_t k = 0; k < kp; ++k) {
      ask_ahead<kAhead>(ahead, k * kPanelColumns * int64_t{sizeof(T)},
                        kp * kPanelColumns * int64_t{sizeof(T)});
      V16 v[NR];
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) v[j] = load(wp[j] + k * kPanelColumns);
      TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
        const V16 q = splat(x.x[i * x.stride + k]);
        TRIREME_UNROLL for (int j = 0; j < NR; ++j) acc[i][j] = fma(q, v[j], acc[i][j]);
      }
    }
    store_sums(out, acc);
  }
};
using F32Linear = FloatLinear<float>;
using F16Linear = FloatLinear<F16>;

struct BF16Linear {
  using Rows = DenseRows<BF16>;
  static constexpr bool kAsksAlone = false;

  template <int MR, int NR, Ahead kAhead>
  static void tile(const Rows& x, const WeightBlock& w, WeightEncoding, int64_t panel,
                   const TileAhead& ahead, float* out) {
    const int64_t kp = k_padded(WeightFormat::kBF16, w.k);
    const auto* base = static_cast<const BF16*>(w.data) + panel * kp * kPanelColumns;
    V16 acc[MR][NR];
    clear_sums(acc);
    const BF16* wp[NR];
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) wp[j] = base + j * kp * kPanelColumns;
    for (int64_t k = 0; k < kp; k += 2) {
      ask_ahead<kAhead>(ahead, k * kPanelColumns * int64_t{sizeof(BF16)},
                        kp * kPanelColumns * int64_t{sizeof(BF16)});
      add_pairs<MR, NR>(x, k, wp, acc);
    }
    store_sums(out, acc);
  }

 private:
  template <int MR, int NR>
  TRIREME_INLINE static void add_pairs(const Rows& x, int64_t k, const BF16* const (&wp)[NR],
                                       V16 (&acc)[MR][NR]) {
#if defined(TRIREME_ISA_avx512)
    __m512i v[NR];
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      v[j] = _mm512_loadu_si512(wp[j] + k * kPanelColumns);
    }
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      int32_t pair;
      std::memcpy(&pair, x.x + i * x.stride + k, sizeof pair);
      const __m512i q = _mm512_set1_epi32(pair);
      // As inline assembly because g++ 12 copies and spills accumulators around the intrinsic.
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
        asm("vdpbf16ps %2,%1,%0" : "+v"(acc[i][j].v) : "v"(v[j]), "v"(q));
      }
    }
#else
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      V16 even;
      V16 odd;
      load_pairs(wp[j] + k * kPanelColumns, even, odd);
      TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
        const BF16* q = x.x + i * x.stride + k;
        acc[i][j] = fma(splat(to_float(q[0])), even, acc[i][j]);
        acc[i][j] = fma(splat(to_float(q[1])), odd, acc[i][j]);
      }
    }
#endif
  }
};

}  // namespace trireme::TRIREME_ISA
