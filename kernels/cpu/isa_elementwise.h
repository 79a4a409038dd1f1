#pragma once

// Embedding, norms, rotary embedding, activations, sums over the vocabulary. Rows are independent
// of each other; sums run over lanes in a fixed order. Private to isa_kernels.cpp.

#include <algorithm>

#include "kernels/cpu/vec16.h"
#include "kernels/kernel_table.h"
#include "kernels/scalar_math.h"
#include "kernels/thread_pool.h"

namespace trireme::TRIREME_ISA {

TRIREME_INLINE void store_lanes(float* p, V16 a, int n) { store_n(p, a, n); }
TRIREME_INLINE void store_lanes(BF16* p, V16 a, int n) { store_bf16_n(p, a, n); }

TRIREME_INLINE float panel_value(const float* w, int64_t k, int64_t lane) {
  return w[k * kPanelColumns + lane];
}
TRIREME_INLINE float panel_value(const BF16* w, int64_t k, int64_t lane) {
  return to_float(w[(k / 2) * 2 * kPanelColumns + lane * 2 + k % 2]);
}

template <typename T>
void embed_typed(Tensor out, Tensor ids, const Weight& embedding, int32_t first_id) {
  const int64_t hidden = out.shape[1];
  for (int64_t t = 0; t < out.shape[0]; ++t) {
    float* row = static_cast<float*>(out.data) + t * out.row_stride;
    const int64_t local = static_cast<int64_t>(static_cast<const int32_t*>(ids.data)[t]) - first_id;
    const auto index = static_cast<size_t>(local / kVocabSumChunk);
    if (local < 0 || index >= embedding.blocks.size() ||
        local % kVocabSumChunk >= embedding.blocks[index].n) {
      std::fill_n(row, hidden, 0.0F);
      continue;
    }
    const WeightBlock& block = embedding.blocks[index];
    const int64_t in_block = local % kVocabSumChunk;
    const T* panel =
        static_cast<const T*>(block.data) +
        in_block / kPanelColumns * k_padded(WeightFormat::kBF16, block.k) * kPanelColumns;
    // + 0 turns -0 into +0, as adding the other ranks' zeros does.
    for (int64_t k = 0; k < hidden; ++k) {
      row[k] = panel_value(panel, k, in_block % kPanelColumns) + 0.0F;
    }
  }
}

template <typename Out>
void rms_norm_typed(Stream stream, Tensor out, Tensor x, const float* weight, float eps) {
  const int64_t n = x.shape[1];
  parallel_for(stream.pool, x.shape[0], 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* in = static_cast<const float*>(x.data) + r * x.row_stride;
      Out* to = static_cast<Out*>(out.data) + r * out.row_stride;
      V16 squares = zero();
      for (int64_t i = 0; i < n; i += 16) {
        const V16 v = load_n(in + i, static_cast<int>(std::min<int64_t>(16, n - i)));
        squares = fma(v, v, squares);
      }
      const float mean = sum_lanes(squares) / static_cast<float>(n);
      const V16 scale = splat(1.0F / __builtin_sqrtf(mean + eps));
      for (int64_t i = 0; i < n; i += 16) {
        const int lanes = static_cast<int>(std::min<int64_t>(16, n - i));
        store_lanes(to + i, (load_n(in + i, lanes) * scale) * load_n(weight + i, lanes), lanes);
      }
    }
  });
}

inline void rope_table_rows(Tensor cos, Tensor sin, Tensor positions, const float* inv_freq,
                            float scale) {
  const int64_t half = cos.shape[1];
  for (int64_t t = 0; t < cos.shape[0]; ++t) {
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

inline void rope_rows(Stream stream, Tensor x, Tensor cos, Tensor sin) {
  const int64_t n_heads = x.shape[1];
  const int64_t half = x.shape[2] / 2;
  parallel_for(stream.pool, x.shape[0], 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* c = static_cast<const float*>(cos.data) + t * cos.row_stride;
      const float* s = static_cast<const float*>(sin.data) + t * sin.row_stride;
      for (int64_t h = 0; h < n_heads; ++h) {
        float* a = static_cast<float*>(x.data) + t * x.row_stride + h * 2 * half;
        float* b = a + half;
        for (int64_t i = 0; i < half; i += 16) {
          const int n = static_cast<int>(std::min<int64_t>(16, half - i));
          const V16 va = load_n(a + i, n);
          const V16 vb = load_n(b + i, n);
          const V16 vc = load_n(c + i, n);
          const V16 vs = load_n(s + i, n);
          store_n(a + i, va * vc - vb * vs, n);
          store_n(b + i, vb * vc + va * vs, n);
        }
      }
    }
  });
}

template <typename Out>
void silu_mul_typed(Stream stream, Tensor out, Tensor gate, Tensor up) {
  const int64_t n = gate.shape[1];
  parallel_for(stream.pool, gate.shape[0], 4, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* g = static_cast<const float*>(gate.data) + r * gate.row_stride;
      const float* u = static_cast<const float*>(up.data) + r * up.row_stride;
      Out* to = static_cast<Out*>(out.data) + r * out.row_stride;
      for (int64_t i = 0; i < n; i += 16) {
        const int lanes = static_cast<int>(std::min<int64_t>(16, n - i));
        const V16 x = load_n(g + i, lanes);
        const V16 silu = x / (splat(1.0F) + exp_lanes(zero() - x));
        store_lanes(to + i, silu * load_n(u + i, lanes), lanes);
      }
    }
  });
}

inline void add_rows(Stream stream, Tensor x, Tensor y, const float* bias) {
  const int64_t n = x.shape[1];
  parallel_for(stream.pool, x.shape[0], 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* a = static_cast<float*>(x.data) + r * x.row_stride;
      const float* b = static_cast<const float*>(y.data) + r * y.row_stride;
      for (int64_t i = 0; i < n; i += 16) {
        const int lanes = static_cast<int>(std::min<int64_t>(16, n - i));
        V16 v = load_n(b + i, lanes);
        if (bias != nullptr) v = v + load_n(bias + i, lanes);
        store_n(a + i, load_n(a + i, lanes) + v, lanes);
      }
    }
  });
}

inline float log_sum_exp_row(const float* x, int64_t n) {
  float max = x[0];
  for (int64_t i = 1; i < n; ++i) max = x[i] > max ? x[i] : max;
  double total = 0;
  for (int64_t chunk = 0; chunk < n; chunk += kVocabSumChunk) {
    const int64_t end = std::min(n, chunk + kVocabSumChunk);
    V16 sum = zero();
    for (int64_t i = chunk; i < end; i += 16) {
      const int lanes = static_cast<int>(std::min<int64_t>(16, end - i));
      const V16 e = exp_lanes(load_n(x + i, lanes) - splat(max));
      float t[16] = {};
      store_n(t, e, lanes);  // lanes past the end are not e^(0 - max)
      sum = sum + load(t);
    }
    total += static_cast<double>(sum_lanes(sum));
  }
  return static_cast<float>(static_cast<double>(max) + portable_log(total));
}

inline void scaled_exp_row(float* out, const float* x, int64_t n, float max, float scale) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = static_cast<int>(std::min<int64_t>(16, n - i));
    store_n(out + i, exp_lanes((load_n(x + i, lanes) - splat(max)) * splat(scale)), lanes);
  }
}

}  // namespace trireme::TRIREME_ISA
