#pragma once

// Embedding, norms, rotary embedding, activations, sums over the vocabulary. Rows are independent
// of each other; sums run over lanes in a fixed order. Private to isa_kernels.cpp.

#include <algorithm>
#include <limits>

#include "kernels/cpu/isa_inputs.h"
#include "kernels/kernel_table.h"
#include "kernels/scalar_math.h"
#include "kernels/thread_pool.h"

namespace trireme::TRIREME_ISA {

// Element k of a column of a packed panel.
TRIREME_INLINE float panel_value(const WeightBlock& w, WeightEncoding encoding, int64_t column,
                                 int64_t k) {
  const int64_t kp = k_padded(encoding.format, w.k);
  const int64_t panel = column / kPanelColumns * kp * kPanelColumns;
  const int64_t lane = column % kPanelColumns;
  const auto quantized = [&](int32_t q, int32_t center) {
    const int64_t i =
        (column / kPanelColumns * k_groups(encoding, w.k) + k / encoding.group) * kPanelColumns +
        lane;
    if (w.zeros != nullptr) center = w.zeros[i];
    return static_cast<float>(q - center) * to_float(w.scales[i]);
  };
  switch (encoding.format) {
    case WeightFormat::kF32:
      return static_cast<const float*>(w.data)[panel + k * kPanelColumns + lane];
    case WeightFormat::kF16:
      return to_float(static_cast<const F16*>(w.data)[panel + k * kPanelColumns + lane]);
    case WeightFormat::kBF16:
      return to_float(static_cast<const BF16*>(w.data)[panel + k / 2 * 32 + lane * 2 + k % 2]);
    case WeightFormat::kI8:
      return quantized(static_cast<const uint8_t*>(w.data)[panel + k / 4 * 64 + lane * 4 + k % 4],
                       kCenterI8);
    case WeightFormat::kI4: {
      const uint8_t both =
          static_cast<const uint8_t*>(w.data)[panel / 2 + k / 8 * 64 + lane * 4 + k % 4];
      return quantized(k % 8 < 4 ? both & 15 : both >> 4, kCenterI4);
    }
  }
  return 0.0F;
}

inline void embed_rows(Tensor out, Tensor ids, const Weight& embedding, int32_t first_id,
                       int64_t begin, int64_t end) {
  const int64_t hidden = out.shape[1];
  for (int64_t t = begin; t < end; ++t) {
    float* row = static_cast<float*>(out.data) + t * out.row_stride;
    const int64_t local = static_cast<int64_t>(static_cast<const int32_t*>(ids.data)[t]) - first_id;
    const auto index = static_cast<size_t>(local / kVocabSumChunk);
    if (local < 0 || index >= embedding.blocks.size() ||
        local % kVocabSumChunk >= embedding.blocks[index].n) {
      std::fill_n(row, hidden, 0.0F);
      continue;
    }
    // + 0 turns -0 into +0, as adding the other ranks' zeros does.
    for (int64_t k = 0; k < hidden; ++k) {
      row[k] = panel_value(embedding.blocks[index], embedding.encoding, local % kVocabSumChunk, k) +
               0.0F;
    }
  }
}

// What a row is multiplied by to have a mean square of 1.
TRIREME_INLINE V16 rms_scale(const float* x, int64_t n, float eps) {
  V16 squares = zero();
  for (int64_t i = 0; i < n; i += 16) {
    const V16 v = load_n(x + i, lanes_left(n, i));
    squares = fma(v, v, squares);
  }
  const float mean = sum_lanes(squares) / static_cast<float>(n);
  return splat(1.0F / __builtin_sqrtf(mean + eps));
}

TRIREME_INLINE void scale_row(float* out, const float* x, const float* weight, V16 scale,
                              int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = lanes_left(n, i);
    store_n(out + i, (load_n(x + i, lanes) * scale) * load_n(weight + i, lanes), lanes);
  }
}

// x [n_rows, n] or [n_rows, n_heads, n], every head on its own.
inline void rms_norm_rows(Stream stream, Tensor out, Tensor x, const float* weight, float eps) {
  const int64_t n = x.shape[static_cast<size_t>(x.rank) - 1];
  const int64_t n_heads = x.rank == 3 ? x.shape[1] : 1;
  parallel_for(stream.pool, x.shape[0], 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t h = 0; h < n_heads; ++h) {
        const float* in = static_cast<const float*>(x.data) + r * x.row_stride + h * n;
        scale_row(static_cast<float*>(out.data) + r * out.row_stride + h * n, in, weight,
                  rms_scale(in, n, eps), n);
      }
    }
  });
}

inline void put_normed(const GemmInput& out, int64_t row, const float* x, const float* weight,
                       float eps) {
  const V16 scale = rms_scale(x, out.values.shape[1], eps);
  for_each_piece(out, [&](const InputSpan& span, int64_t offset, int64_t n) {
    alignas(64) float piece[kQuantBlock];
    const int64_t column = span.column + offset;
    scale_row(piece, x + column, weight + column, scale, n);
    put_inputs(out, row, span, offset, piece, n);
  });
}

// x += y + bias
TRIREME_INLINE void add_row(float* x, const float* y, const float* bias, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = lanes_left(n, i);
    V16 v = load_n(y + i, lanes);
    if (bias != nullptr) v = v + load_n(bias + i, lanes);
    store_n(x + i, load_n(x + i, lanes) + v, lanes);
  }
}

// out = silu(gate) * up
TRIREME_INLINE void silu_mul_row(float* out, const float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = lanes_left(n, i);
    const V16 x = load_n(gate + i, lanes);
    const V16 silu = x / (splat(1.0F) + exp_lanes(zero() - x));
    store_n(out + i, silu * load_n(up + i, lanes), lanes);
  }
}

// Columns [offset, offset + n) of a span of silu(gate) * up.
TRIREME_INLINE void put_silu_mul(const GemmInput& out, int64_t row, const InputSpan& span,
                                 int64_t offset, int64_t n, Tensor gate, Tensor up) {
  alignas(64) float piece[kQuantBlock];
  const int64_t column = span.column + offset;
  silu_mul_row(piece, static_cast<const float*>(gate.data) + row * gate.row_stride + column,
               static_cast<const float*>(up.data) + row * up.row_stride + column, n);
  put_inputs(out, row, span, offset, piece, n);
}

inline void rope_table_rows(Tensor cos, Tensor sin, Tensor positions, const float* inv_freq,
                            float scale, int64_t begin, int64_t end) {
  const int64_t half = cos.shape[1];
  for (int64_t t = begin; t < end; ++t) {
    const auto position = static_cast<float>(static_cast<const int32_t*>(positions.data)[t]);
    float* c = static_cast<float*>(cos.data) + t * cos.row_stride;
    float* s = static_cast<float*>(sin.data) + t * sin.row_stride;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * inv_freq[i];  // rounded to float32 first, as the models were
      c[i] = static_cast<float>(portable_cos(angle)) * scale;
      s[i] = static_cast<float>(portable_sin(angle)) * scale;
    }
  }
}

// One head, halves paired (i, i + half).
TRIREME_INLINE void rope_head(float* head, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i += 16) {
    const int n = lanes_left(half, i);
    const V16 a = load_n(head + i, n);
    const V16 b = load_n(head + half + i, n);
    const V16 c = load_n(cos + i, n);
    const V16 s = load_n(sin + i, n);
    store_n(head + i, a * c - b * s, n);
    store_n(head + half + i, b * c + a * s, n);
  }
}

TRIREME_INLINE void rope_token(Tensor x, Tensor cos, Tensor sin, int64_t token) {
  const int64_t half = x.shape[2] / 2;
  for (int64_t h = 0; h < x.shape[1]; ++h) {
    rope_head(static_cast<float*>(x.data) + token * x.row_stride + h * 2 * half,
              static_cast<const float*>(cos.data) + token * cos.row_stride,
              static_cast<const float*>(sin.data) + token * sin.row_stride, half);
  }
}

// The largest of a row; what is not a number does not count.
TRIREME_INLINE float largest_of(const float* x, int64_t n) {
  V16 largest = splat(-std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) largest = max(load(x + i), largest);
  for (; i < n; ++i) largest = max(splat(x[i]), largest);
  return max_lanes(largest);
}

inline int32_t argmax_row(const float* x, int64_t n) {
  const float largest = largest_of(x, n);
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] == largest) return static_cast<int32_t>(i);
  }
  return 0;  // not a number
}

// The sum of exp(x - max) over at most kVocabSumChunk columns.
TRIREME_INLINE float exp_sum(const float* x, int64_t n, float max) {
  V16 sum = zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sum = sum + exp_lanes(load(x + i) - splat(max));
  if (i < n) {
    const int lanes = lanes_left(n, i);
    float t[16] = {};
    store_n(t, exp_lanes(load_n(x + i, lanes) - splat(max)), lanes);
    sum = sum + load(t);
  }
  return sum_lanes(sum);
}

// Chunks are summed by whichever thread, and added in order.
inline float log_sum_exp_row(Stream stream, const float* x, int64_t n) {
  constexpr int64_t kChunksAtOnce = 256;
  const float max = largest_of(x, n);
  const int64_t n_chunks = div_ceil<int64_t>(n, kVocabSumChunk);
  double total = 0;
  for (int64_t first = 0; first < n_chunks; first += kChunksAtOnce) {
    const int64_t count = std::min(kChunksAtOnce, n_chunks - first);
    float sums[kChunksAtOnce];
    parallel_for(stream.pool, count, 8, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const int64_t column = (first + c) * kVocabSumChunk;
        sums[c] = exp_sum(x + column, std::min<int64_t>(kVocabSumChunk, n - column), max);
      }
    });
    for (int64_t c = 0; c < count; ++c) total += static_cast<double>(sums[c]);
  }
  return static_cast<float>(static_cast<double>(max) + portable_log(total));
}

inline void scaled_exp_row(float* out, const float* x, int64_t n, float max, float scale) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = lanes_left(n, i);
    store_n(out + i, exp_lanes((load_n(x + i, lanes) - splat(max)) * splat(scale)), lanes);
  }
}

}  // namespace trireme::TRIREME_ISA
