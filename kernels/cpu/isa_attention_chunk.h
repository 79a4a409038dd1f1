#pragma once

// Attention over one chunk of KV positions, alone: scores in units of ln 2, their maximum, weights
// 2^(score - maximum), the sum of the weights, and the weighted values. Chunks are merged in
// ascending order, so who computed them does not matter. Private to isa_kernels.cpp.

#include <algorithm>
#include <limits>

#include "kernels/cpu/isa_attention_dots.h"
#include "kernels/cpu/isa_kv_store.h"
#include "kernels/cpu/vec16.h"
#include "kernels/kernel_table.h"

namespace trireme::TRIREME_ISA {

constexpr int kMaxTileRows = 96;  // (token, query head) pairs that share one pass over a KV head

// 2^x for x <= 0, relative error below 3e-7; NaN stays NaN. The polynomial is 1 at 0.
TRIREME_INLINE V16 exp2_lanes(V16 x) {
#if defined(TRIREME_ISA_avx512)
  const V16 clamped = max(splat(-200.0F), x);
  const V16 n = round_nearest(clamped);
#else
  const V16 clamped = max(splat(-126.0F), x);
  const V16 n = round_nearest(max(clamped, splat(-126.0F)));  // a number in any case
#endif
  const V16 r = clamped - n;
  V16 s = splat(1.33813021e-3F);
  s = fma(s, r, splat(9.66636837e-3F));
  s = fma(s, r, splat(5.55038117e-2F));
  s = fma(s, r, splat(0.240223497F));
  s = fma(s, r, splat(0.693147182F));
  s = fma(s, r, splat(1.0F));
#if defined(TRIREME_ISA_avx512)
  return {_mm512_scalef_ps(s.v, n.v)};
#elif defined(TRIREME_ISA_avx2)
  const V16 y = scale_by_power_of_two(s, n);
  const __m256 low = _mm256_set1_ps(-126.0F);
  return {_mm256_and_ps(y.a, _mm256_cmp_ps(x.a, low, _CMP_NLT_UQ)),
          _mm256_and_ps(y.b, _mm256_cmp_ps(x.b, low, _CMP_NLT_UQ))};
#else
  V16 y = scale_by_power_of_two(s, n);
  TRIREME_LANES y.v[i] = x.v[i] < -126.0F ? 0.0F : y.v[i];
  return y;
#endif
}

// A row's result over one chunk, or over all chunks so far: one record of floats,
// [round_up(head_dim, 16)] weighted values, [16] sums of weights that together are the sum, [1]
// maximum, and padding.
constexpr int kRecordTail = 32;
TRIREME_INLINE int padded_dim(int head_dim) { return (head_dim + 15) / 16 * 16; }
TRIREME_INLINE int record_floats(int head_dim) { return padded_dim(head_dim) + kRecordTail; }

TRIREME_INLINE void start_record(float* record, int head_dim) {
  const int n = padded_dim(head_dim);
  for (int d = 0; d < n + 16; d += 16) store(record + d, zero());
  record[n + 16] = -std::numeric_limits<float>::infinity();
}

// Of each row state, then chunk: the larger maximum stays, the other's sums shrink. n_rows <= 16
// records, `stride` apart.
inline void merge_records(float* states, const float* chunk, int64_t stride, int n_rows,
                          int head_dim) {
  const int n = padded_dim(head_dim);
  alignas(64) float differences[16] = {};
  for (int i = 0; i < n_rows; ++i) {
    differences[i] = chunk[i * stride + n + 16] - states[i * stride + n + 16];
  }
  // NaN as the second operand stays NaN.
  const V16 difference = load(differences);
  alignas(64) float of_state[16];
  alignas(64) float of_chunk[16];
  store(of_state, exp2_lanes(min(zero(), zero() - difference)));
  store(of_chunk, exp2_lanes(min(zero(), difference)));
  for (int i = 0; i < n_rows; ++i) {
    float* state = states + i * stride;
    const float* record = chunk + i * stride;
    for (int d = 0; d < n + 16; d += 16) {
      store(state + d,
            fma(load(record + d), splat(of_chunk[i]), load(state + d) * splat(of_state[i])));
    }
    state[n + 16] = differences[i] > 0.0F ? record[n + 16] : state[n + 16];
  }
}

// The rows that pass over one KV head together: row t * group + h is query head first_head + h of
// the tile's token t. Tokens are consecutive positions of one sequence.
struct TileRows {
  const int32_t* positions;  // [n_tokens]
  const int32_t* blocks;     // the sequence's row of the block table
  int n_tokens;
  int group;
  int kv_head;
  int window;
  float scale;
  int n() const { return n_tokens * group; }
  int first_seen(int t) const { return window > 0 ? std::max(0, positions[t] - window + 1) : 0; }
};

// Memory that construction leaves as it is.
template <typename T, size_t n>
union Unset {
  T values[n];
  Unset() {}
};

// What one thread needs for a tile; too large to be zeroed each time.
template <typename T>
struct TileScratch {
  using Operand = typename KvElement<T>::Operand;
  static constexpr size_t kExpanded = sizeof(T) == 1 ? kAttentionChunk * kMaxHeadDim : 1;
  alignas(64) Unset<Operand, kMaxTileRows * kMaxHeadDim> q;            // [rows, head_dim]
  alignas(64) float scores[kTileRows * kAttentionChunk];               // of one register tile
  alignas(64) Unset<Operand, kTileRows * kAttentionChunk> weights;     // the same
  alignas(64) float records[kTileRows * (kMaxHeadDim + kRecordTail)];  // the same
  alignas(64) float k_factors[kAttentionChunk];   // what a score is multiplied with
  alignas(64) float v_scales[kAttentionChunk];    // int8 only
  alignas(64) Unset<BF16, kExpanded> k_expanded;  // int8 only: a chunk's keys
  alignas(64) Unset<BF16, kExpanded> v_expanded;  // and its values
  alignas(64) float states[kMaxTileRows * (kMaxHeadDim + kRecordTail)];
  SeenRange seen[kMaxTileRows];
};

// Lanes [begin, end) of a, the others `other`; begin and end may lie outside of [0, 16].
TRIREME_INLINE V16 keep_lanes(V16 a, int begin, int end, float other) {
#if defined(TRIREME_ISA_avx512)
  const auto below = static_cast<unsigned>(first_lanes(std::clamp(begin, 0, 16)));
  const auto wanted = static_cast<unsigned>(first_lanes(std::clamp(end, 0, 16))) & ~below;
  return {_mm512_mask_mov_ps(_mm512_set1_ps(other), static_cast<__mmask16>(wanted), a.v)};
#else
  float t[16];
  store(t, a);
  for (int i = 0; i < 16; ++i) {
    if (i < begin || i >= end) t[i] = other;
  }
  return load(t);
#endif
}

// Stores 16 operands of the product with the values; returns them as they were stored.
TRIREME_INLINE V16 store_operands(float* to, V16 a) {
  store(to, a);
  return a;
}
TRIREME_INLINE V16 store_operands(BF16* to, V16 a) {
#if defined(TRIREME_ISA_avx512)
  const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16))};
#else
  store_bf16_n(to, a, 16);
  return load_bf16_n(to, 16);
#endif
}

// Stores 32 operands of the product with the values.
TRIREME_INLINE void store_operand_pair(float* to, V16 a, V16 b) {
  store(to, a);
  store(to + 16, b);
}
TRIREME_INLINE void store_operand_pair(BF16* to, V16 a, V16 b) {
#if defined(TRIREME_ISA_avx512)
  _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.v, a.v)));
#else
  store_operands(to, a);
  store_operands(to + 16, b);
#endif
}
// The same, and adds them up as they were stored.
TRIREME_INLINE V16 sum_operand_pair(float* to, V16 sum, V16 a, V16 b) {
  store_operand_pair(to, a, b);
  return (sum + a) + b;
}
TRIREME_INLINE V16 sum_operand_pair(BF16* to, V16 sum, V16 a, V16 b) {
#if defined(TRIREME_ISA_avx512)
  const PairLanes pairs{reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b.v, a.v))};
  _mm512_storeu_si512(to, pairs.v);
  mul_add(sum, pairs, {_mm512_set1_epi32(0x3f803f80)});  // times one
  return sum;
#else
  sum = sum + store_operands(to, a);
  return sum + store_operands(to + 16, b);
#endif
}

// A row's scores to weights, 32 positions at a time. In bf16 the sum is that of the rounded
// weights, so that the weights which are used add up to one; in int8 the product takes weight *
// scale of the value instead, and the sum is that of the weights themselves.
template <typename T>
inline void softmax_row(TileScratch<T>& scratch, int row, SeenRange seen, float* record,
                        int head_dim) {
  constexpr float kUnseen = -std::numeric_limits<float>::infinity();
  float* s = scratch.scores + row * kAttentionChunk;
  auto* operands = scratch.weights.values + row * kAttentionChunk;
  const int begin = seen.begin & ~31;
  const int end = (seen.end + 31) & ~31;
  V16 largest = splat(kUnseen);
  for (int i = begin; i < end; i += 16) {
    V16 score = load(s + i);
    if (i < seen.begin || i + 16 > seen.end) {
      score = keep_lanes(score, seen.begin - i, seen.end - i, kUnseen);
      store(s + i, score);
    }
    largest = max(largest, score);
  }
  const float maximum = max_lanes(largest);
  V16 sum = zero();
  for (int i = begin; i < end; i += 32) {
    V16 a = exp2_lanes(load(s + i) - splat(maximum));
    V16 b = exp2_lanes(load(s + i + 16) - splat(maximum));
    if constexpr (sizeof(T) == 1) {
      sum = (sum + a) + b;
      a = a * load(scratch.v_scales + i);
      b = b * load(scratch.v_scales + i + 16);
      if (i < seen.begin || i + 32 > seen.end) {  // a scale that nobody wrote may be NaN
        a = keep_lanes(a, seen.begin - i, seen.end - i, 0.0F);
        b = keep_lanes(b, seen.begin - i - 16, seen.end - i - 16, 0.0F);
      }
      store_operand_pair(operands + i, a, b);
    } else {
      sum = sum_operand_pair(operands + i, sum, a, b);
    }
  }
  const int n = padded_dim(head_dim);
  store(record + n, sum);
  record[n + 16] = maximum;
}

// Which of a chunk's positions each row sees; true when some row sees some.
template <typename T>
inline bool find_seen(TileScratch<T>& scratch, const TileRows& rows, int chunk) {
  const int base = chunk * kAttentionChunk;
  bool any = false;
  for (int t = 0; t < rows.n_tokens; ++t) {
    const SeenRange seen{std::max(rows.first_seen(t) - base, 0),
                         std::min(rows.positions[t] + 1 - base, kAttentionChunk)};
    for (int h = 0; h < rows.group; ++h) scratch.seen[t * rows.group + h] = seen;
    any = any || seen.begin < seen.end;
  }
  return any;
}

// Blocks of a chunk that rows see: [begin, end).
struct BlockRange {
  int begin;
  int end;
};
inline BlockRange blocks_of(const SeenRange* seen, int n_rows) {
  BlockRange range{kChunkBlocks, 0};
  for (int i = 0; i < n_rows; ++i) {
    if (seen[i].begin >= seen[i].end) continue;
    range.begin = std::min(range.begin, seen[i].begin / kKvBlockTokens);
    range.end = std::max(range.end, (seen[i].end - 1) / kKvBlockTokens + 1);
  }
  return range;
}

template <typename T>
void load_factors(TileScratch<T>& scratch, const TileRows& rows, const KvLayer& kv,
                  BlockRange range, const int32_t* blocks) {
  constexpr float kLog2E = 1.44269504F;
  const V16 factor = splat(rows.scale * kLog2E);
  for (int b = range.begin; b < range.end; ++b) {
    const int at = b * kKvBlockTokens;
    if constexpr (sizeof(T) == 1) {
      const int64_t from =
          (static_cast<int64_t>(blocks[b]) * kv.n_kv_heads + rows.kv_head) * kKvBlockTokens;
      store(scratch.k_factors + at, load(kv.k_scales + from) * factor);
      store(scratch.v_scales + at, load(kv.v_scales + from));
    } else {
      store(scratch.k_factors + at, factor);
    }
  }
}

// One register tile of rows that all see something of the chunk: their records of it.
template <int MR, bool kAhead, typename T, typename Tile>
void attend_rows(TileScratch<T>& scratch, int row, const ChunkTiles<Tile>& tiles, int head_dim,
                 float* records) {
  const SeenRange* seen = scratch.seen + row;
  const BlockRange range = blocks_of(seen, MR);
  score_blocks<MR, kAhead>(scratch.q.values + static_cast<int64_t>(row) * head_dim, tiles,
                           range.begin, range.end, head_dim, scratch.k_factors, scratch.scores);
  const int stride = record_floats(head_dim);
  for (int i = 0; i < MR; ++i) {
    float* record = records + i * stride;
    for (int d = 0; d < head_dim; d += 16) store(record + d, zero());
    softmax_row(scratch, i, seen[i], record, head_dim);
  }
  using Operand = typename TileScratch<T>::Operand;
  weigh_values<MR, kAhead, Operand, Tile>({scratch.weights.values, seen, tiles, head_dim}, records,
                                          stride);
}

// The rows that see something of the chunk, a register tile at a time. With `merges`, their records
// are merged into `states`; else they are the states. kAhead: asks for the next chunk meanwhile.
template <bool kAhead, typename T, typename Tile>
void attend_tiles(TileScratch<T>& scratch, const TileRows& rows, const ChunkTiles<Tile>& tiles,
                  int head_dim, bool merges, float* states) {
  const int64_t stride = record_floats(head_dim);
  const auto sees = [&](int r) { return scratch.seen[r].begin < scratch.seen[r].end; };
  int end = rows.n();
  int row = 0;
  while (!sees(row)) ++row;
  while (!sees(end - 1)) --end;
  while (row < end) {
    const int n = std::min(kTileRows, end - row);
    float* state = states + row * stride;
    with_rows<kTileRows>(n, [&](auto tile) {
      attend_rows<decltype(tile)::value, kAhead>(scratch, row, tiles, head_dim,
                                                 merges ? scratch.records : state);
    });
    if (merges) merge_records(state, scratch.records, stride, n, head_dim);
    row += n;
  }
}

// Where the blocks of a chunk and of the one after it lie. Behind the last block there is nothing
// to ask for: the chunk's own blocks stand in.
template <typename T>
ChunkTiles<T> find_tiles(const TileRows& rows, const KvLayer& kv, int chunk, BlockRange range) {
  const int64_t size = static_cast<int64_t>(kv.head_dim) * kKvBlockTokens;
  const int32_t* blocks = rows.blocks + static_cast<int64_t>(chunk) * kChunkBlocks;
  const int last =
      rows.positions[rows.n_tokens - 1] / kKvBlockTokens - chunk * kChunkBlocks;  // in `blocks`
  ChunkTiles<T> tiles;
  for (int b = range.begin; b < range.end; ++b) {
    const auto offset = [&](int block) {
      return (static_cast<int64_t>(blocks[block]) * kv.n_kv_heads + rows.kv_head) * size;
    };
    const int ahead = b + kChunkBlocks <= last ? b + kChunkBlocks : b;
    tiles.k[b] = static_cast<const T*>(kv.k) + offset(b);
    tiles.v[b] = static_cast<const T*>(kv.v) + offset(b);
    tiles.k_ahead[b] = static_cast<const T*>(kv.k) + offset(ahead);
    tiles.v_ahead[b] = static_cast<const T*>(kv.v) + offset(ahead);
  }
  return tiles;
}

// One chunk of the tile's rows, whose queries are in the scratch.
template <typename T>
void attend_chunk(TileScratch<T>& scratch, const TileRows& rows, const KvLayer& kv, int chunk,
                  bool merges, float* states) {
  if (rows.n() == 0 || !find_seen(scratch, rows, chunk)) return;
  const int head_dim = kv.head_dim;
  const BlockRange range = blocks_of(scratch.seen, rows.n());
  const ChunkTiles<T> tiles = find_tiles<T>(rows, kv, chunk, range);
  load_factors(scratch, rows, kv, range, rows.blocks + static_cast<int64_t>(chunk) * kChunkBlocks);
  // One register tile waits for memory, if for anything; several wait for the products.
  if (rows.n() <= kTileRows) {
    attend_tiles<true>(scratch, rows, tiles, head_dim, merges, states);
  } else if constexpr (sizeof(T) == 1) {  // expanded once for all of them
    const int64_t size = static_cast<int64_t>(head_dim) * kKvBlockTokens;
    ChunkTiles<BF16> expanded;
    for (int b = range.begin; b < range.end; ++b) {
      expand(tiles.k[b], scratch.k_expanded.values + b * size, size);
      expand(tiles.v[b], scratch.v_expanded.values + b * size, size);
      expanded.k[b] = expanded.k_ahead[b] = scratch.k_expanded.values + b * size;
      expanded.v[b] = expanded.v_ahead[b] = scratch.v_expanded.values + b * size;
    }
    attend_tiles<false>(scratch, rows, expanded, head_dim, merges, states);
  } else {
    attend_tiles<false>(scratch, rows, tiles, head_dim, merges, states);
  }
}

}  // namespace trireme::TRIREME_ISA
