#pragma once

// Linear layers out of register tiles. A row's bits do not depend on the rows, columns or threads
// beside it. Private to isa_kernels.cpp.

#include <algorithm>
#include <span>

#include "kernels/check.h"
#include "kernels/cpu/isa_elementwise.h"
#include "kernels/cpu/isa_inputs.h"
#include "kernels/cpu/isa_int_tiles.h"
#include "kernels/cpu/isa_tiles.h"
#include "kernels/leaf_tree.h"
#include "kernels/thread_pool.h"

namespace trireme::TRIREME_ISA {

// What one tile adds up: the leaves of a subtree of a row-parallel weight, or one column block.
template <typename F>
struct TileSource {
  std::span<const WeightBlock> blocks;
  std::span<const InputSpan> spans;  // block i multiplies span i
  WeightEncoding encoding;
  int first_leaf;         // global index of blocks[0]
  typename F::Rows rows;  // from the first row on
};

// What the tile of one leaf asks for: if it is alone, what is read next, the same panels of the
// next leaf; else the next group of panels, which the row tiles bring together.
template <Ahead kAhead, typename F>
TRIREME_INLINE TileAhead ahead_of_leaf(const TileSource<F>& source, size_t leaf, int64_t panel) {
  if constexpr (kAhead == Ahead::kNone) {
    return tile_ahead(source.blocks[leaf], source.encoding, panel);
  }
  if (kAhead == Ahead::kAll && leaf + 1 < source.blocks.size()) {
    return tile_ahead(source.blocks[leaf + 1], source.encoding, panel);
  }
  const WeightBlock& block = source.blocks[kAhead == Ahead::kAll ? 0 : leaf];
  return tile_ahead(block, source.encoding, panel + kTilePanels);
}

// The sum over leaves [begin, end), in tree order, into buffer [MR][kTileColumns].
template <typename F, int MR, int NR, Ahead kAhead>
void tree_tile(const TileSource<F>& source, int begin, int end, int64_t panel, float* buffer) {
  if (end - begin == 1) {
    const auto i = static_cast<size_t>(begin - source.first_leaf);
    typename F::Rows rows = source.rows;
    rows.skip_places(source.spans[i].place);
    F::template tile<MR, NR, kAhead>(rows, source.blocks[i], source.encoding, panel,
                                     ahead_of_leaf<kAhead>(source, i, panel), buffer);
    return;
  }
  const int split = tree_split(begin, end);
  alignas(64) float right[MR * kTileColumns];
  tree_tile<F, MR, NR, kAhead>(source, begin, split, panel, buffer);
  tree_tile<F, MR, NR, kAhead>(source, split, end, panel, right);
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

template <typename F, int MR, int NR, Ahead kAhead>
void compute_tile(const TileSource<F>& source, TreeNode node, int64_t panel,
                  const TileTarget& target) {
  alignas(64) float buffer[MR * kTileColumns];
  tree_tile<F, MR, NR, kAhead>(source, node.begin, node.end, panel, buffer);
  for (int j = 0; j < NR; ++j) {
    const int64_t column = (panel + j) * kPanelColumns;
    const int n = lanes_left(target.n, column);
    const V16 bias = target.bias == nullptr ? zero() : load(target.bias + column);
    for (int i = 0; i < MR; ++i) {
      V16 value = load(buffer + i * kTileColumns + j * kPanelColumns);
      if (target.bias != nullptr) value = value + bias;
      store_n(target.out + i * target.out_stride + column, value, n);
    }
  }
}

template <typename F, int MR, Ahead kAhead>
void compute_row_tile(const TileSource<F>& source, TreeNode node, int64_t panel, int64_t end_panel,
                      const TileTarget& target) {
  if (end_panel - panel == kTilePanels) {
    compute_tile<F, MR, kTilePanels, kAhead>(source, node, panel, target);
    return;
  }
  for (; panel < end_panel; ++panel) {
    compute_tile<F, MR, 1, Ahead::kNone>(source, node, panel, target);
  }
}

// What a row tile of a group asks for. One that is alone asks where its leaves lie apart, which
// ends the processor's own prefetching at each, or its format wants it. Of two tiles both ask: one
// alone would have to wait for memory while it asks for everything, and memory for the other. Of
// more, the first may still be waiting for what was asked for last.
template <typename F>
TRIREME_INLINE Ahead ahead_of(int64_t tile, int64_t n_tiles, size_t n_leaves) {
  if (n_tiles == 1) return F::kAsksAlone || n_leaves > 1 ? Ahead::kAll : Ahead::kNone;
  const int64_t first = n_tiles == 2 ? 0 : 1;
  return tile == first ? Ahead::kFirstHalf : tile == first + 1 ? Ahead::kSecondHalf : Ahead::kNone;
}

template <typename F, int MR>
TRIREME_INLINE void compute_row_tile_at(const TileSource<F>& source, TreeNode node, int64_t panel,
                                        int64_t end_panel, const TileTarget& target, Ahead ahead) {
  const auto run = [&]<Ahead kAhead>() {
    compute_row_tile<F, MR, kAhead>(source, node, panel, end_panel, target);
  };
  if constexpr (kTilePanels % 2 == 0) {
    switch (ahead) {
      case Ahead::kNone: break;
      case Ahead::kFirstHalf: return run.template operator()<Ahead::kFirstHalf>();
      case Ahead::kSecondHalf: return run.template operator()<Ahead::kSecondHalf>();
      case Ahead::kAll: return run.template operator()<Ahead::kAll>();
    }
  }
  run.template operator()<Ahead::kNone>();
}

// All rows of one group of panels: the weights stay in the cache while the rows pass.
template <typename F>
void compute_panel_group(TileSource<F> source, TreeNode node, int64_t panel, int64_t end_panel,
                         TileTarget target, int64_t n_rows) {
  const int64_t n_all = div_ceil<int64_t>(n_rows, kTileRows);
  for (int64_t tile = 0; n_rows > 0; ++tile) {
    const Ahead ahead = ahead_of<F>(tile, n_all, source.blocks.size());
    // The rest in tiles as even as can be: 8 rows are 4 + 4, not 6 + 2.
    const int64_t n_tiles = div_ceil<int64_t>(n_rows, kTileRows);
    const int64_t rows = n_rows >= 3 * kTileRows ? kTileRows : div_ceil(n_rows, n_tiles);
    const auto run = [&]<int MR>() {
      compute_row_tile_at<F, MR>(source, node, panel, end_panel, target, ahead);
    };
    switch (rows) {
      case 1: run.template operator()<1>(); break;
      case 2: run.template operator()<2>(); break;
      case 3: run.template operator()<std::min(3, kTileRows)>(); break;
      case 4: run.template operator()<std::min(4, kTileRows)>(); break;
      case 5: run.template operator()<std::min(5, kTileRows)>(); break;
      default: run.template operator()<kTileRows>(); break;
    }
    source.rows.skip_rows(rows);
    target.out += rows * target.out_stride;
    n_rows -= rows;
  }
}

TRIREME_INLINE int64_t n_panels(int64_t columns) {
  return div_ceil<int64_t>(columns, kPanelColumns);
}
TRIREME_INLINE int64_t panel_groups(const WeightBlock& block) {
  return div_ceil<int64_t>(n_panels(block.n), kTilePanels);
}

struct RowRange {
  int64_t begin;
  int64_t n;
};

// Calls body(RowRange) for blocks that tile the rows of x: few enough that their inputs stay in the
// second cache while the weights pass, and so many that the weights, which come again for each
// block, need a small part of the memory's bandwidth.
template <typename Body>
TRIREME_INLINE void for_each_row_block(const GemmInput& x, const Body& body) {
  constexpr int64_t kBytes = 320 * 1024;
  constexpr int64_t kFewest = 120;
  const int64_t n_rows = x.values.shape[0];
  const int64_t fit =
      kBytes / (x.values.row_stride * static_cast<int64_t>(dtype_size(x.values.dtype)));
  const int64_t step = std::max(kFewest, fit / kTileRows * kTileRows);
  for (int64_t r = 0; r < n_rows; r += step) body(RowRange{r, std::min(step, n_rows - r)});
}

// Columns [panel, end_panel) of one block of a column-parallel weight.
template <typename F>
void compute_columns(Tensor out, const GemmInput& x, const Weight& weight, size_t index,
                     int64_t panel, int64_t end_panel, RowRange rows) {
  const WeightBlock& block = weight.blocks[index];
  TileSource<F> source{{&block, 1}, x.spans, weight.encoding, 0, typename F::Rows(x)};
  source.rows.skip_rows(rows.begin);
  float* out_data = static_cast<float*>(out.data) + rows.begin * out.row_stride;
  const TileTarget target{out_data + block.out_begin, out.row_stride, block.bias, block.n};
  compute_panel_group<F>(source, {0, 1}, panel, end_panel, target, rows.n);
}

// Groups [begin, end) of all blocks' panel groups, some rows.
template <typename F>
void compute_groups(Tensor out, const GemmInput& x, const Weight& weight, int64_t begin,
                    int64_t end, RowRange rows) {
  int64_t first = 0;  // of the block's groups
  for (size_t i = 0; i < weight.blocks.size(); ++i) {
    const int64_t groups = panel_groups(weight.blocks[i]);
    const int64_t panels = n_panels(weight.blocks[i].n);
    for (int64_t g = std::max(begin, first); g < std::min(end, first + groups); ++g) {
      const int64_t panel = (g - first) * kTilePanels;
      compute_columns<F>(out, x, weight, i, panel, std::min(panel + kTilePanels, panels), rows);
    }
    first += groups;
  }
}

template <typename F>
void linear_typed(Stream stream, Tensor out, const GemmInput& x, const Weight& weight) {
  int64_t n_groups = 0;
  for (const WeightBlock& block : weight.blocks) n_groups += panel_groups(block);
  parallel_for(stream.pool, n_groups, 1, [&](int64_t begin, int64_t end) {
    for_each_row_block(x,
                       [&](RowRange rows) { compute_groups<F>(out, x, weight, begin, end, rows); });
  });
}

template <typename F>
void linear_tree_typed(Stream stream, Tensor out, const GemmInput& x, const Weight& weight,
                       int32_t leaf0, std::span<const TreeNode> nodes) {
  const int64_t panels = n_panels(weight.n_out);
  const auto compute = [&](int64_t group, RowRange rows) {
    TileSource<F> source{weight.blocks, x.spans, weight.encoding, leaf0, typename F::Rows(x)};
    source.rows.skip_rows(rows.begin);
    const int64_t panel = group * kTilePanels;
    for (size_t i = 0; i < nodes.size(); ++i) {
      float* to = static_cast<float*>(out.data) + static_cast<int64_t>(i) * out.row_stride +
                  rows.begin * weight.n_out;
      const TileTarget target{to, weight.n_out, nullptr, weight.n_out};
      compute_panel_group<F>(source, nodes[i], panel, std::min(panel + kTilePanels, panels), target,
                             rows.n);
    }
  };
  parallel_for(stream.pool, panel_groups(weight.blocks[0]), 1, [&](int64_t begin, int64_t end) {
    for_each_row_block(x, [&](RowRange rows) {
      for (int64_t g = begin; g < end; ++g) compute(g, rows);
    });
  });
}

// Up to so many rows gate_up() takes columns of both weights in turn. Of more, the activations no
// longer stay in the cache between the two, and rows are the better order for what follows.
constexpr int64_t kGateUpRows = 64;

template <typename F>
void gate_up_of_many_rows(Stream stream, const GemmInput& out, const GemmInput& x,
                          const Weight& gate, const Weight& up, Tensor gate_out, Tensor up_out) {
  linear_typed<F>(stream, gate_out, x, gate);
  linear_typed<F>(stream, up_out, x, up);
  parallel_for(stream.pool, x.values.shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for_each_piece(out, [&](const InputSpan& span, int64_t offset, int64_t n) {
        put_silu_mul(out, r, span, offset, n, gate_out, up_out);
      });
    }
  });
}

// Columns [offset, offset + kQuantBlock) of one leaf.
template <typename F>
void gate_up_piece(const GemmInput& out, const GemmInput& x, const Weight& gate, const Weight& up,
                   Tensor gate_out, Tensor up_out, size_t leaf, int64_t offset) {
  const InputSpan& span = out.spans[leaf];
  const int64_t n = std::min<int64_t>(kQuantBlock, span.n - offset);
  const int64_t end_panel = offset / kPanelColumns + n_panels(n);
  for (int64_t p = offset / kPanelColumns; p < end_panel; p += kTilePanels) {
    const int64_t stop = std::min<int64_t>(p + kTilePanels, end_panel);
    compute_columns<F>(gate_out, x, gate, leaf, p, stop, {0, x.values.shape[0]});
    compute_columns<F>(up_out, x, up, leaf, p, stop, {0, x.values.shape[0]});
  }
  for (int64_t r = 0; r < x.values.shape[0]; ++r) {
    put_silu_mul(out, r, span, offset, n, gate_out, up_out);
  }
}

// gate and up in turn, and their activation while both are in the cache.
template <typename F>
void gate_up_typed(Stream stream, const GemmInput& out, const GemmInput& x, const Weight& gate,
                   const Weight& up, Tensor gate_out, Tensor up_out) {
  if (x.values.shape[0] > kGateUpRows) {
    return gate_up_of_many_rows<F>(stream, out, x, gate, up, gate_out, up_out);
  }
  const auto pieces_of = [](const InputSpan& span) {
    return div_ceil<int64_t>(span.n, kQuantBlock);
  };
  int64_t n_pieces = 0;
  for (const InputSpan& span : out.spans) n_pieces += pieces_of(span);
  parallel_for(stream.pool, n_pieces, 1, [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // of the leaf's pieces
    for (size_t leaf = 0; leaf < out.spans.size(); ++leaf) {
      const int64_t last = first + pieces_of(out.spans[leaf]);
      for (int64_t piece = std::max(begin, first); piece < std::min(end, last); ++piece) {
        gate_up_piece<F>(out, x, gate, up, gate_out, up_out, leaf, (piece - first) * kQuantBlock);
      }
      first = last;
    }
  });
}

}  // namespace trireme::TRIREME_ISA
