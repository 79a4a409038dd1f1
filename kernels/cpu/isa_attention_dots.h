#pragma once

// The two products of attention in register tiles: rows of weights or queries times panels of 16
// lanes from the KV cache. Every lane sums its products in ascending order in one accumulator,
// whatever the tile. Private to isa_kernels.cpp.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/isa_tile_shape.h"
#include "kernels/cpu/vec16.h"
#include "kernels/kernel_table.h"

namespace trireme::TRIREME_ISA {

constexpr int kChunkBlocks = kAttentionChunk / kKvBlockTokens;

// What cached elements of type T are multiplied with, and how many of them in one step: bf16 and
// int8 lie in pairs.
template <typename T>
struct KvElement {
  using Operand = BF16;
  static constexpr int kStep = 2;
};
template <>
struct KvElement<float> {
  using Operand = float;
  static constexpr int kStep = 1;
};

// One step of 16 lanes: load_step() of cached elements, broadcast() of a row's operand, mul_add().
TRIREME_INLINE V16 load_step(const float* p) { return load(p); }
TRIREME_INLINE V16 load_step_n(const float* p, int n) { return load_n(p, n); }
TRIREME_INLINE V16 broadcast(const float* x) { return splat(*x); }
TRIREME_INLINE void mul_add(V16& acc, V16 w, V16 x) { acc = fma(x, w, acc); }

#if defined(TRIREME_ISA_avx512)
struct PairLanes {
  __m512i v;
};
TRIREME_INLINE PairLanes load_step(const BF16* p) { return {_mm512_loadu_si512(p)}; }
TRIREME_INLINE PairLanes load_step(const int8_t* p) {
  const __m256i u = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(u)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(u, 1)));
  return {reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low))};
}
TRIREME_INLINE PairLanes broadcast(const BF16* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof pair);
  return {_mm512_set1_epi32(pair)};
}
// As inline assembly because g++ 12 copies and spills accumulators around the intrinsic.
TRIREME_INLINE void mul_add(V16& acc, PairLanes w, PairLanes x) {
  asm("vdpbf16ps %2,%1,%0" : "+v"(acc.v) : "v"(w.v), "v"(x.v));
}
TRIREME_INLINE PairLanes keep_even(PairLanes w) {
  return {_mm512_and_si512(w.v, _mm512_set1_epi32(0xffff))};
}
TRIREME_INLINE PairLanes keep_odd(PairLanes w) {
  return {_mm512_and_si512(w.v, _mm512_set1_epi32(-65536))};
}
#else
struct PairLanes {
  V16 even, odd;
};
struct PairOperand {
  float even, odd;
};
TRIREME_INLINE PairLanes load_step(const BF16* p) {
  PairLanes w;
  load_pairs(p, w.even, w.odd);
  return w;
}
TRIREME_INLINE PairLanes load_step(const int8_t* p) {
  PairLanes w;
#if defined(TRIREME_ISA_avx2)
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  const __m256i u = _mm256_cvtepi8_epi16(_mm_loadu_si128(halves));
  const __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128(halves + 1));
  w.even = {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(u, 16), 16)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 16), 16))};
  w.odd = {_mm256_cvtepi32_ps(_mm256_srai_epi32(u, 16)),
           _mm256_cvtepi32_ps(_mm256_srai_epi32(v, 16))};
#else
  TRIREME_LANES {
    w.even.v[i] = static_cast<float>(p[2 * i]);
    w.odd.v[i] = static_cast<float>(p[2 * i + 1]);
  }
#endif
  return w;
}
TRIREME_INLINE PairOperand broadcast(const BF16* x) { return {to_float(x[0]), to_float(x[1])}; }
TRIREME_INLINE void mul_add(V16& acc, const PairLanes& w, PairOperand x) {
  acc = fma(splat(x.even), w.even, acc);
  acc = fma(splat(x.odd), w.odd, acc);
}
TRIREME_INLINE PairLanes keep_even(const PairLanes& w) { return {w.even, zero()}; }
TRIREME_INLINE PairLanes keep_odd(const PairLanes& w) { return {zero(), w.odd}; }
#endif

// The first n lanes from memory, the others zero; nothing is read past them.
template <typename T>
TRIREME_INLINE PairLanes load_step_n(const T* p, int n) {
  T t[32] = {};
  std::memcpy(t, p, static_cast<size_t>(n) * 2 * sizeof(T));
  return load_step(t);
}

// int8 to bf16, exactly; n a multiple of 32.
inline void expand(const int8_t* from, BF16* to, int64_t n) {
#if defined(TRIREME_ISA_avx512)
  for (int64_t i = 0; i < n; i += 32) _mm512_storeu_si512(to + i, load_step(from + i).v);
#else
  for (int64_t i = 0; i < n; ++i) to[i] = to_bf16(static_cast<float>(from[i]));
#endif
}

// How a register tile reads the cache: whole panels; whole panels while it asks for those that
// come next; or a panel of fewer than 16 lanes.
enum class Panel { kWhole, kWholeAhead, kTail };

// acc += rows x[MR] times panels w[NR], n_steps steps of each. kWholeAhead: `ahead` are the panels
// to ask for, at the pace of these. kTail: only `lanes` of 16 exist.
template <int MR, int NR, Panel kPanel, typename Op, typename T>
TRIREME_INLINE void accumulate(V16 (&acc)[MR][NR], const Op* x, int64_t x_stride,
                               const T* const (&w)[NR], const T* const (&ahead)[NR], int64_t w_step,
                               int n_steps, int lanes) {
  for (int64_t s = 0; s < n_steps; ++s) {
    decltype(load_step(w[0])) panel[NR];
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      // Into the second cache: the first has too few outstanding misses to cover the latency.
      if constexpr (kPanel == Panel::kWholeAhead) __builtin_prefetch(ahead[j] + s * w_step, 0, 2);
      if constexpr (kPanel == Panel::kTail) {
        panel[j] = load_step_n(w[j] + s * w_step, lanes);
      } else {
        panel[j] = load_step(w[j] + s * w_step);
      }
    }
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      const auto operand = broadcast(x + i * x_stride + s * KvElement<T>::kStep);
      TRIREME_UNROLL for (int j = 0; j < NR; ++j) mul_add(acc[i][j], panel[j], operand);
    }
  }
}

// Calls body(std::integral_constant<int, n>), 1 <= n <= MR.
template <int MR, typename Body>
TRIREME_INLINE void with_rows(int n, const Body& body) {
  if constexpr (MR > 1) {
    if (n < MR) return with_rows<MR - 1>(n, body);
  }
  body(std::integral_constant<int, MR>{});
}

// Scores of rows q with NR blocks of 16 cached keys, times the keys' factors: lanes are tokens.
template <int MR, int NR, Panel kPanel, typename Op, typename T>
void score_tile(const Op* q, const T* const* k_tiles, const T* const* k_ahead, int head_dim,
                const float* factors, float* scores) {
  V16 acc[MR][NR];
  const T* w[NR];
  const T* ahead[NR];
  TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
    w[j] = k_tiles[j];
    ahead[j] = k_ahead[j];
  }
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) acc[i][j] = zero();
  }
  constexpr int kStep = KvElement<T>::kStep;
  accumulate<MR, NR, kPanel>(acc, q, head_dim, w, ahead, kStep * 16, head_dim / kStep, 16);
  TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
    const V16 factor = load(factors + j * kKvBlockTokens);
    TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
      store(scores + i * kAttentionChunk + j * kKvBlockTokens, acc[i][j] * factor);
    }
  }
}

// One KV head's tiles of a chunk, and those of the chunk that comes after it.
template <typename T>
struct ChunkTiles {
  const T* k[kChunkBlocks];
  const T* v[kChunkBlocks];
  const T* k_ahead[kChunkBlocks];
  const T* v_ahead[kChunkBlocks];
};

// Scores of rows q [MR, head_dim] with blocks [block_begin, block_end) of a chunk, times the
// factors [kAttentionChunk] of its keys.
template <int MR, bool kAhead, typename Op, typename T>
void score_blocks(const Op* q, const ChunkTiles<T>& tiles, int block_begin, int block_end,
                  int head_dim, const float* factors, float* scores) {
  constexpr Panel kPanel = kAhead ? Panel::kWholeAhead : Panel::kWhole;
  int b = block_begin;
  for (; b + kTilePanels <= block_end; b += kTilePanels) {
    score_tile<MR, kTilePanels, kPanel>(q, tiles.k + b, tiles.k_ahead + b, head_dim,
                                        factors + b * kKvBlockTokens, scores + b * kKvBlockTokens);
  }
  for (; b < block_end; ++b) {
    score_tile<MR, 1, Panel::kWhole>(q, tiles.k + b, tiles.k + b, head_dim,
                                     factors + b * kKvBlockTokens, scores + b * kKvBlockTokens);
  }
}

// The positions of a chunk that a row sees: [begin, end).
struct SeenRange {
  int begin;
  int end;
};

// Where the product with the values takes its operands from.
template <typename Op, typename T>
struct ValueSource {
  const Op* weights;      // [rows, kAttentionChunk], zero at positions that are not seen
  const SeenRange* seen;  // [rows]
  const ChunkTiles<T>& tiles;
  int head_dim;
};

// acc [MR, NR * 16 from dimension d] += weights times values, whole steps [begin, end).
template <int MR, int NR, Panel kPanel, typename Op, typename T>
void weigh_steps(const ValueSource<Op, T>& source, int row, int d, int begin, int end, float* to,
                 int64_t to_stride) {
  constexpr int kStep = KvElement<T>::kStep;
  constexpr int kBlockSteps = kKvBlockTokens / kStep;
  const int64_t w_step = static_cast<int64_t>(source.head_dim) * kStep;
  const Op* x = source.weights + static_cast<int64_t>(row) * kAttentionChunk;
  V16 acc[MR][NR];
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) acc[i][j] = load(to + i * to_stride + j * 16);
  }
  while (begin < end) {
    const int in_block = begin % kBlockSteps;
    const int n = std::min(end - begin, kBlockSteps - in_block);
    const int64_t at = in_block * w_step + d * kStep;
    const T* tile = source.tiles.v[begin / kBlockSteps] + at;
    const T* tile_ahead = tile;
    if constexpr (kPanel == Panel::kWholeAhead) {
      tile_ahead = source.tiles.v_ahead[begin / kBlockSteps] + at;
    }
    const T* w[NR];
    const T* ahead[NR];
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) {
      w[j] = tile + j * 16 * kStep;
      ahead[j] = tile_ahead + j * 16 * kStep;
    }
    accumulate<MR, NR, kPanel>(acc, x + begin * kStep, kAttentionChunk, w, ahead, w_step, n,
                               source.head_dim - d);
    begin += n;
  }
  TRIREME_UNROLL for (int i = 0; i < MR; ++i) {
    TRIREME_UNROLL for (int j = 0; j < NR; ++j) store(to + i * to_stride + j * 16, acc[i][j]);
  }
}

// One position whose neighbour in the pair is not seen: what lies there is not multiplied.
template <int NR, Panel kPanel, typename Op, typename T>
void weigh_half_step(const ValueSource<Op, T>& source, int row, int d, int position, float* to) {
  if constexpr (KvElement<T>::kStep == 2) {
    const int in_block = position % kKvBlockTokens / 2;
    const T* tile = source.tiles.v[position / kKvBlockTokens] +
                    (static_cast<int64_t>(in_block) * source.head_dim + d) * 2;
    const auto x =
        broadcast(source.weights + static_cast<int64_t>(row) * kAttentionChunk + (position & ~1));
    for (int j = 0; j < NR; ++j) {
      PairLanes w;
      if constexpr (kPanel == Panel::kTail) {
        w = load_step_n(tile, source.head_dim - d);
      } else {
        w = load_step(tile + j * 32);
      }
      V16 acc = load(to + j * 16);
      mul_add(acc, position % 2 == 0 ? keep_even(w) : keep_odd(w), x);
      store(to + j * 16, acc);
    }
  }
}

// acc [MR, NR * 16 from dimension d] += weights times values of what each row sees, ascending: what
// the rows have in common together, the rest of each row before and after that.
template <int MR, int NR, Panel kPanel, typename Op, typename T>
void weigh_tile(const ValueSource<Op, T>& source, int d, float* acc, int64_t acc_stride) {
  constexpr int kStep = KvElement<T>::kStep;
  const SeenRange* seen = source.seen;
  const auto first_step = [&](int i) { return (seen[i].begin + kStep - 1) / kStep; };
  const auto end_step = [&](int i) { return seen[i].end / kStep; };
  int begin = first_step(0);
  int end = end_step(0);
  for (int i = 1; i < MR; ++i) {
    begin = std::max(begin, first_step(i));
    end = std::min(end, end_step(i));
  }
  if (begin >= end) begin = end = kAttentionChunk;  // nothing in common: each row's in one go
  for (int i = 0; i < MR; ++i) {
    float* to = acc + i * acc_stride;
    if (seen[i].begin % kStep != 0) {
      weigh_half_step<NR, kPanel>(source, i, d, seen[i].begin, to);
    }
    const int stop = std::min(begin, end_step(i));
    if (first_step(i) < stop) {
      weigh_steps<1, NR, kPanel>(source, i, d, first_step(i), stop, to, acc_stride);
    }
  }
  if (begin < end) weigh_steps<MR, NR, kPanel>(source, 0, d, begin, end, acc, acc_stride);
  for (int i = 0; i < MR; ++i) {
    float* to = acc + i * acc_stride;
    if (end < end_step(i)) {
      weigh_steps<1, NR, kPanel>(source, i, d, end, end_step(i), to, acc_stride);
    }
    if (seen[i].end % kStep != 0) {
      weigh_half_step<NR, kPanel>(source, i, d, seen[i].end - 1, to);
    }
  }
}

// acc [MR, acc_stride] += the rows' weights times the chunk's values.
template <int MR, bool kAhead, typename Op, typename T>
void weigh_values(const ValueSource<Op, T>& source, float* acc, int64_t acc_stride) {
  constexpr Panel kPanel = kAhead ? Panel::kWholeAhead : Panel::kWhole;
  int d = 0;
  for (; d + kTilePanels * 16 <= source.head_dim; d += kTilePanels * 16) {
    weigh_tile<MR, kTilePanels, kPanel>(source, d, acc + d, acc_stride);
  }
  for (; d + 16 <= source.head_dim; d += 16) {
    weigh_tile<MR, 1, Panel::kWhole>(source, d, acc + d, acc_stride);
  }
  if (d < source.head_dim) weigh_tile<MR, 1, Panel::kTail>(source, d, acc + d, acc_stride);
}

}  // namespace trireme::TRIREME_ISA
