#pragma once

// Linear layers. Each output element sums its K products in ascending order in one accumulator,
// whatever the number of rows and however the work is tiled. Private to isa_kernels.cpp.

#include <algorithm>
#include <span>

#include "kernels/check.h"
#include "kernels/cpu/vec16.h"
#include "kernels/leaf_tree.h"
#include "kernels/tensor.h"
#include "kernels/thread_pool.h"
#include "kernels/weight.h"

namespace trireme::TRIREME_ISA {

#define TRIREME_UNROLL _Pragma("GCC unroll 8")

#if defined(TRIREME_ISA_avx512)
constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
#elif defined(TRIREME_ISA_avx2)
constexpr int kTileRows = 4;
constexpr int kTilePanels = 1;
#else
constexpr int kTileRows = 2;
constexpr int kTilePanels = 1;
#endif
constexpr int kTileColumns = kTilePanels * kPanelColumns;

// A weight block as bytes, with its panels' size in elements.
template <typename T>
struct Panels {
  const T* data;
  int64_t panel_size;  // k_padded * 16
  int64_t k_padded;
  const T* panel(int64_t i) const { return data + i * panel_size; }
};

template <typename T>
TRIREME_INLINE Panels<T> panels_of(const WeightBlock& block) {
  const int64_t kp = k_padded(WeightFormat::kBF16, block.k);
  return {static_cast<const T*>(block.data), kp * kPanelColumns, kp};
}

// acc[MR][NR] (row-major, NR * 16 columns a row) = rows of x times NR panels.
template <int MR, int NR>
TRIREME_INLINE void tile(const float* x, int64_t x_stride, const Panels<float>& w, int64_t panel,
                         float* out, int64_t out_stride) {
  V16 acc[MR][NR];
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) acc[i][j] = zero();
  }
  const float* wp[NR];
  TRIREME_UNROLL for (int j = 0; j < NR; ++j) wp[j] = w.panel(panel + j);
  for (int64_t k = 0; k < w.k_padded; ++k) {
    V16 v[NR];
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) v[j] = load(wp[j] + k * kPanelColumns);
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      const V16 q = splat(x[i * x_stride + k]);
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) acc[i][j] = fma(q, v[j], acc[i][j]);
    }
  }
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      store(out + i * out_stride + j * kPanelColumns, acc[i][j]);
    }
  }
}

#if defined(TRIREME_ISA_avx512)
template <int MR, int NR>
TRIREME_INLINE void tile(const BF16* x, int64_t x_stride, const Panels<BF16>& w, int64_t panel,
                         float* out, int64_t out_stride) {
  __m512 acc[MR][NR];
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) acc[i][j] = _mm512_setzero_ps();
  }
  const BF16* wp[NR];
  TRIREME_UNROLL for (int j = 0; j < NR; ++j) wp[j] = w.panel(panel + j);
  for (int64_t k = 0; k < w.k_padded; k += 2) {
    __m512i v[NR];
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      v[j] = _mm512_loadu_si512(wp[j] + k * kPanelColumns);
    }
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      int32_t pair;
      std::memcpy(&pair, x + i * x_stride + k, sizeof pair);
      const __m512i q = _mm512_set1_epi32(pair);
      // As inline assembly because g++ 12 copies and spills accumulators around the intrinsic.
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
        asm("vdpbf16ps %2,%1,%0" : "+v"(acc[i][j]) : "v"(v[j]), "v"(q));
      }
    }
  }
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      _mm512_storeu_ps(out + i * out_stride + j * kPanelColumns, acc[i][j]);
    }
  }
}
#else
template <int MR, int NR>
TRIREME_INLINE void tile(const BF16* x, int64_t x_stride, const Panels<BF16>& w, int64_t panel,
                         float* out, int64_t out_stride) {
  V16 acc[MR][NR];
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) acc[i][j] = zero();
  }
  for (int64_t k = 0; k < w.k_padded; k += 2) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      V16 even;
      V16 odd;
      load_pairs(w.panel(panel + j) + k * kPanelColumns, even, odd);
      TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
        const BF16* q = x + i * x_stride + k;
        acc[i][j] = fma(splat(to_float(q[0])), even, acc[i][j]);
        acc[i][j] = fma(splat(to_float(q[1])), odd, acc[i][j]);
      }
    }
  }
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      store(out + i * out_stride + j * kPanelColumns, acc[i][j]);
    }
  }
}
#endif

// What one tile adds up: the leaves of a subtree of a row-parallel weight, or one column block.
template <typename T>
struct TileSource {
  std::span<const WeightBlock> blocks;
  int first_leaf;  // global index of blocks[0]
  const T* x;      // first row
  int64_t x_stride;
};

// The sum over leaves [begin, end), in tree order, into buffer [MR][kTileColumns].
template <typename T, int MR, int NR>
void tree_tile(const TileSource<T>& source, int begin, int end, int64_t panel, float* buffer) {
  if (end - begin == 1) {
    const WeightBlock& block = source.blocks[static_cast<size_t>(begin - source.first_leaf)];
    tile<MR, NR>(source.x + block.k_begin, source.x_stride, panels_of<T>(block), panel, buffer,
                 kTileColumns);
    return;
  }
  const int split = tree_split(begin, end);
  alignas(64) float right[MR * kTileColumns];
  tree_tile<T, MR, NR>(source, begin, split, panel, buffer);
  tree_tile<T, MR, NR>(source, split, end, panel, right);
  for (int i = 0; i < MR; ++i) {
    for (int j = 0; j < NR * kPanelColumns; j += kPanelColumns) {
      float* a = buffer + i * kTileColumns + j;
      store(a, load(a) + load(right + i * kTileColumns + j));
    }
  }
}

// Where a tile's columns go.
struct TileTarget {
  float* out;  // first row, first column of the block
  int64_t out_stride;
  const float* bias;  // of the block, or null
  int64_t n;          // columns in the block
};

template <typename T, int MR, int NR>
void compute_tile(const TileSource<T>& source, TreeNode node, int64_t panel,
                  const TileTarget& target) {
  alignas(64) float buffer[MR * kTileColumns];
  tree_tile<T, MR, NR>(source, node.begin, node.end, panel, buffer);
  for (int j = 0; j < NR; ++j) {
    const int64_t column = (panel + j) * kPanelColumns;
    const int n = static_cast<int>(std::min<int64_t>(kPanelColumns, target.n - column));
    const V16 bias = target.bias == nullptr ? zero() : load(target.bias + column);
    for (int i = 0; i < MR; ++i) {
      V16 value = load(buffer + i * kTileColumns + j * kPanelColumns);
      if (target.bias != nullptr) value = value + bias;
      store_n(target.out + i * target.out_stride + column, value, n);
    }
  }
}

template <typename T, int MR>
void compute_row_tile(const TileSource<T>& source, TreeNode node, int64_t panel, int64_t end_panel,
                      const TileTarget& target) {
  if (end_panel - panel == kTilePanels) {
    compute_tile<T, MR, kTilePanels>(source, node, panel, target);
    return;
  }
  for (; panel < end_panel; ++panel) compute_tile<T, MR, 1>(source, node, panel, target);
}

// All rows of one group of panels: the weights stay in the cache while the rows pass.
template <typename T>
void compute_panel_group(TileSource<T> source, TreeNode node, int64_t panel, int64_t end_panel,
                         TileTarget target, int64_t n_rows) {
  auto advance = [&](int64_t rows) {
    source.x += rows * source.x_stride;
    target.out += rows * target.out_stride;
  };
  for (; n_rows >= kTileRows; n_rows -= kTileRows) {
    compute_row_tile<T, kTileRows>(source, node, panel, end_panel, target);
    advance(kTileRows);
  }
  if constexpr (kTileRows > 4) {
    if (n_rows >= 4) {
      compute_row_tile<T, 4>(source, node, panel, end_panel, target);
      advance(4);
      n_rows -= 4;
    }
  }
  if constexpr (kTileRows > 2) {
    if (n_rows >= 2) {
      compute_row_tile<T, 2>(source, node, panel, end_panel, target);
      advance(2);
      n_rows -= 2;
    }
  }
  if (n_rows == 1) compute_row_tile<T, 1>(source, node, panel, end_panel, target);
}

TRIREME_INLINE int64_t panel_groups(const WeightBlock& block) {
  return div_ceil<int64_t>(div_ceil<int64_t>(block.n, kPanelColumns), kTilePanels);
}

template <typename T>
void linear_typed(Stream stream, Tensor out, Tensor x, const Weight& weight) {
  int64_t n_groups = 0;
  for (const WeightBlock& block : weight.blocks) n_groups += panel_groups(block);
  const int64_t n_rows = x.shape[0];
  const T* x_data = static_cast<const T*>(x.data);
  float* out_data = static_cast<float*>(out.data);
  parallel_for(stream.pool, n_groups, 1, [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // of the block's groups
    for (const WeightBlock& block : weight.blocks) {
      const int64_t groups = panel_groups(block);
      const int64_t n_panels = div_ceil<int64_t>(block.n, kPanelColumns);
      for (int64_t g = std::max(begin, first); g < std::min(end, first + groups); ++g) {
        const int64_t panel = (g - first) * kTilePanels;
        const TileSource<T> source{{&block, 1}, 0, x_data, x.row_stride};
        const TileTarget target{out_data + block.out_begin, out.row_stride, block.bias, block.n};
        compute_panel_group<T>(source, {0, 1}, panel, std::min(panel + kTilePanels, n_panels),
                               target, n_rows);
      }
      first += groups;
    }
  });
}

template <typename T>
void linear_tree_typed(Stream stream, Tensor out, Tensor x, const Weight& weight, int32_t leaf0,
                       std::span<const TreeNode> nodes) {
  const int64_t n_rows = x.shape[0];
  const int64_t n_panels = div_ceil<int64_t>(weight.n_out, kPanelColumns);
  const TileSource<T> source{weight.blocks, leaf0, static_cast<const T*>(x.data), x.row_stride};
  float* out_data = static_cast<float*>(out.data);
  parallel_for(stream.pool, panel_groups(weight.blocks[0]), 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t panel = g * kTilePanels;
      for (size_t i = 0; i < nodes.size(); ++i) {
        const TileTarget target{out_data + static_cast<int64_t>(i) * out.row_stride, weight.n_out,
                                nullptr, weight.n_out};
        compute_panel_group<T>(source, nodes[i], panel, std::min(panel + kTilePanels, n_panels),
                               target, n_rows);
      }
    }
  });
}

}  // namespace trireme::TRIREME_ISA
