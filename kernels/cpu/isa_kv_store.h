#pragma once

// Writing the KV cache: kernel_table.h has its layout. Private to isa_kernels.cpp.

#include <algorithm>

#include "kernels/cpu/isa_quantize.h"
#include "kernels/cpu/vec16.h"
#include "kernels/kernel_table.h"
#include "kernels/thread_pool.h"

namespace trireme::TRIREME_ISA {

constexpr int kMaxHeadDim = 256;

TRIREME_INLINE void put(float* p, float x) { *p = x; }
TRIREME_INLINE void put(BF16* p, float x) { *p = to_bf16(x); }
TRIREME_INLINE void put(int8_t* p, float whole) { *p = static_cast<int8_t>(whole); }

// Places of dimension d of token i in a tile of keys and in one of values.
TRIREME_INLINE int64_t key_index(const float*, int d, int i) { return d * kKvBlockTokens + i; }
template <typename T>
TRIREME_INLINE int64_t key_index(const T*, int d, int i) {
  return (d / 2) * (2 * kKvBlockTokens) + i * 2 + d % 2;
}
TRIREME_INLINE int64_t value_index(const float*, int d, int i, int head_dim) {
  return static_cast<int64_t>(i) * head_dim + d;
}
template <typename T>
TRIREME_INLINE int64_t value_index(const T*, int d, int i, int head_dim) {
  return (static_cast<int64_t>(i / 2) * head_dim + d) * 2 + i % 2;
}

// One token's keys or values of one head; scales[at] is written for int8 only.
template <typename T, typename Index>
TRIREME_INLINE void store_head(T* tile, const float* in, int head_dim, float* scales, int64_t at,
                               const Index& index) {
  if constexpr (sizeof(T) == 1) {
    const Int8Scale quantizer(in, head_dim);
    scales[at] = quantizer.scale();
    alignas(64) float whole[kMaxHeadDim];
    for (int d = 0; d < head_dim; d += 16) {
      const int lanes = lanes_left(head_dim, d);
      store_n(whole + d, quantizer.quantize(load_n(in + d, lanes)), lanes);
    }
    for (int d = 0; d < head_dim; ++d) put(tile + index(d), whole[d]);
  } else {
    for (int d = 0; d < head_dim; ++d) put(tile + index(d), in[d]);
  }
}

template <typename T>
void store_kv_typed(Stream stream, const KvLayer& kv, Tensor k, Tensor v, Tensor slot_mapping) {
  const int head_dim = kv.head_dim;
  const int64_t tile = static_cast<int64_t>(head_dim) * kKvBlockTokens;
  const auto* slots = static_cast<const int32_t*>(slot_mapping.data);
  parallel_for(stream.pool, k.shape[0], kKvBlockTokens, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t block = slots[t] / kKvBlockTokens;
      const int offset = slots[t] % kKvBlockTokens;
      for (int h = 0; h < kv.n_kv_heads; ++h) {
        const int64_t head = block * kv.n_kv_heads + h;
        const int64_t at = static_cast<int64_t>(h) * head_dim;
        T* k_tile = static_cast<T*>(kv.k) + head * tile;
        T* v_tile = static_cast<T*>(kv.v) + head * tile;
        store_head(k_tile, static_cast<const float*>(k.data) + t * k.row_stride + at, head_dim,
                   kv.k_scales, head * kKvBlockTokens + offset,
                   [&](int d) { return key_index(k_tile, d, offset); });
        store_head(v_tile, static_cast<const float*>(v.data) + t * v.row_stride + at, head_dim,
                   kv.v_scales, head * kKvBlockTokens + offset,
                   [&](int d) { return value_index(v_tile, d, offset, head_dim); });
      }
    }
  });
}

}  // namespace trireme::TRIREME_ISA
