#pragma once

// Paged attention and the KV cache's layout. KV positions are merged in chunks anchored at position
// 0, so a token's result does not depend on how its sequence was cut into steps. Private to
// isa_kernels.cpp.

#include <algorithm>
#include <limits>

#include "kernels/cpu/vec16.h"
#include "kernels/kernel_table.h"
#include "kernels/thread_pool.h"

namespace trireme::TRIREME_ISA {

constexpr int kMaxHeadDim = 256;
constexpr int kMaxHeadBatch = 8;  // query heads that share one pass over a KV head
constexpr int kChunkBlocks = kAttentionChunk / kKvBlockTokens;

// Scores of 16 cached keys for one query: lanes are tokens.
TRIREME_INLINE V16 key_scores(const float* q, const float* k, int head_dim) {
  V16 s = zero();
  for (int d = 0; d < head_dim; ++d) s = fma(splat(q[d]), load(k + d * 16), s);
  return s;
}
TRIREME_INLINE V16 key_scores(const float* q, const BF16* k, int head_dim) {
  V16 s = zero();
  for (int d = 0; d < head_dim; d += 2) {
    V16 even;
    V16 odd;
    load_pairs(k + d * 16, even, odd);
    s = fma(splat(q[d]), even, s);
    s = fma(splat(q[d + 1]), odd, s);
  }
  return s;
}

TRIREME_INLINE V16 load_value(const float* v, int n) { return load_n(v, n); }
TRIREME_INLINE V16 load_value(const BF16* v, int n) { return load_bf16_n(v, n); }

// The running softmax of one query head.
struct HeadState {
  float max;
  V16 sum;                             // lane i: weights of tokens i mod 16
  alignas(64) float acc[kMaxHeadDim];  // weighted values
};

// Which cached tokens a query sees in one chunk, and where they are.
struct ChunkView {
  const int32_t* blocks;  // block ids of the chunk
  int first;              // tokens [first, last) of the chunk are seen
  int last;
};

template <typename T>
void merge_chunk(HeadState& state, const float* q, const KvLayer& kv, int kv_head, float scale,
                 const ChunkView& chunk) {
  alignas(64) float weights[kAttentionChunk];
  const int head_dim = kv.head_dim;
  const int64_t tile = static_cast<int64_t>(head_dim) * kKvBlockTokens;
  const int first_block = chunk.first / kKvBlockTokens;
  const int end_block = (chunk.last + kKvBlockTokens - 1) / kKvBlockTokens;
  float chunk_max = -std::numeric_limits<float>::infinity();
  for (int b = first_block; b < end_block; ++b) {
    const T* k = static_cast<const T*>(kv.k) +
                 (static_cast<int64_t>(chunk.blocks[b]) * kv.n_kv_heads + kv_head) * tile;
    float* s = weights + b * kKvBlockTokens;
    store(s, key_scores(q, k, head_dim) * splat(scale));
    for (int i = 0; i < kKvBlockTokens; ++i) {
      const int token = b * kKvBlockTokens + i;
      if (token < chunk.first || token >= chunk.last)
        s[i] = -std::numeric_limits<float>::infinity();
    }
    chunk_max = std::max(chunk_max, max_lanes(load(s)));
  }
  const float new_max = std::max(state.max, chunk_max);
  const V16 shrink = exp_lanes(splat(state.max - new_max));  // 0 at the first chunk
  state.max = new_max;
  state.sum = state.sum * shrink;
  for (int d = 0; d < head_dim; d += 16) store(state.acc + d, load(state.acc + d) * shrink);
  for (int b = first_block; b < end_block; ++b) {
    float* s = weights + b * kKvBlockTokens;
    const V16 p = exp_lanes(load(s) - splat(new_max));
    store(s, p);
    state.sum = state.sum + p;
  }
  for (int d = 0; d < head_dim; d += 16) {
    const int n = std::min(16, head_dim - d);
    V16 acc = load(state.acc + d);
    for (int token = chunk.first; token < chunk.last; ++token) {
      const int b = token / kKvBlockTokens;
      const T* v = static_cast<const T*>(kv.v) +
                   (static_cast<int64_t>(chunk.blocks[b]) * kv.n_kv_heads + kv_head) * tile +
                   static_cast<int64_t>(token % kKvBlockTokens) * head_dim;
      acc = fma(splat(weights[token]), load_value(v + d, n), acc);
    }
    store(state.acc + d, acc);
  }
}

TRIREME_INLINE void store_row(float* out, const float* in, int n) { std::copy_n(in, n, out); }
TRIREME_INLINE void store_row(BF16* out, const float* in, int n) {
  for (int i = 0; i < n; ++i) out[i] = to_bf16(in[i]);
}

// One token's query heads [head_begin, head_end), all reading local KV head kv_head.
template <typename T, typename Out>
void attend(Tensor out, Tensor q, const KvLayer& kv, const AttentionMeta& meta, int64_t token,
            int head_begin, int head_end, int kv_head) {
  HeadState states[kMaxHeadBatch];
  const int n_heads = head_end - head_begin;
  for (int h = 0; h < n_heads; ++h) {
    states[h].max = -std::numeric_limits<float>::infinity();
    states[h].sum = zero();
    std::fill_n(states[h].acc, kMaxHeadDim, 0.0F);
  }
  const int position = meta.positions[token];
  const int seen_from = meta.window > 0 ? std::max(0, position - meta.window + 1) : 0;
  const int32_t* blocks =
      meta.block_tables + static_cast<int64_t>(meta.slots[token]) * meta.block_table_stride;
  const float* q_row = static_cast<const float*>(q.data) + token * q.row_stride;
  for (int c = seen_from / kAttentionChunk; c <= position / kAttentionChunk; ++c) {
    const int base = c * kAttentionChunk;
    const ChunkView chunk{blocks + static_cast<int64_t>(c) * kChunkBlocks,
                          std::max(seen_from - base, 0),
                          std::min(position + 1 - base, kAttentionChunk)};
    for (int h = 0; h < n_heads; ++h) {
      merge_chunk<T>(states[h], q_row + static_cast<int64_t>(head_begin + h) * kv.head_dim, kv,
                     kv_head, meta.scale, chunk);
    }
  }
  Out* out_row = static_cast<Out*>(out.data) + token * out.row_stride;
  for (int h = 0; h < n_heads; ++h) {
    const V16 inverse = splat(1.0F) / splat(sum_lanes(states[h].sum));
    for (int d = 0; d < kv.head_dim; d += 16) {
      store(states[h].acc + d, load(states[h].acc + d) * inverse);
    }
    store_row(out_row + static_cast<int64_t>(head_begin + h) * kv.head_dim, states[h].acc,
              kv.head_dim);
  }
}

template <typename T, typename Out>
void paged_attention_typed(Stream stream, Tensor out, Tensor q, const KvLayer& kv,
                           const AttentionMeta& meta) {
  const int64_t n_tokens = q.shape[0];
  parallel_for(stream.pool, n_tokens * kv.n_kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t token = task / kv.n_kv_heads;
      const auto kv_head = static_cast<int>(task % kv.n_kv_heads);
      // Local query heads that read this KV head.
      const int first = (meta.first_kv_head + kv_head) * meta.heads_per_kv - meta.first_head;
      const int last = std::min(first + meta.heads_per_kv, meta.n_heads);
      for (int h = std::max(first, 0); h < last; h += kMaxHeadBatch) {
        attend<T, Out>(out, q, kv, meta, token, h, std::min(h + kMaxHeadBatch, last), kv_head);
      }
    }
  });
}

TRIREME_INLINE void put(float* p, float x) { *p = x; }
TRIREME_INLINE void put(BF16* p, float x) { *p = to_bf16(x); }

// Place of dimension d of token i in one key tile.
TRIREME_INLINE int key_index(const float*, int d, int i) { return d * 16 + i; }
TRIREME_INLINE int key_index(const BF16*, int d, int i) { return (d / 2) * 32 + i * 2 + d % 2; }

template <typename T>
void store_kv_typed(const KvLayer& kv, Tensor k, Tensor v, Tensor slot_mapping) {
  const int64_t tile = static_cast<int64_t>(kv.head_dim) * kKvBlockTokens;
  const auto* slots = static_cast<const int32_t*>(slot_mapping.data);
  for (int64_t t = 0; t < k.shape[0]; ++t) {
    const int64_t block = slots[t] / kKvBlockTokens;
    const int offset = slots[t] % kKvBlockTokens;
    for (int h = 0; h < kv.n_kv_heads; ++h) {
      const int64_t base = (block * kv.n_kv_heads + h) * tile;
      T* k_tile = static_cast<T*>(kv.k) + base;
      T* v_row = static_cast<T*>(kv.v) + base + static_cast<int64_t>(offset) * kv.head_dim;
      const float* k_in = static_cast<const float*>(k.data) + t * k.row_stride + h * kv.head_dim;
      const float* v_in = static_cast<const float*>(v.data) + t * v.row_stride + h * kv.head_dim;
      for (int d = 0; d < kv.head_dim; ++d) {
        put(k_tile + key_index(k_tile, d, offset), k_in[d]);
        put(v_row + d, v_in[d]);
      }
    }
  }
}

}  // namespace trireme::TRIREME_ISA
