// The CPU kernels of one instruction set: compiled once per set, with TRIREME_ISA naming it. Each
// entry checks its shapes, chooses by format, and launches.

#include "kernels/cpu/isa_attention.h"
#include "kernels/cpu/isa_elementwise.h"
#include "kernels/cpu/isa_linear.h"
#include "kernels/kernel_table.h"

namespace trireme::TRIREME_ISA {
namespace {

#define TRIREME_TEXT2(x) #x
#define TRIREME_TEXT(x) TRIREME_TEXT2(x)

// Calls run.operator()<Format>() for a weight's format.
template <typename Run>
void with_format(WeightEncoding encoding, const Run& run) {
  switch (encoding.format) {
    case WeightFormat::kF32: return run.template operator()<F32Linear>();
    case WeightFormat::kF16: return run.template operator()<F16Linear>();
    case WeightFormat::kBF16: return run.template operator()<BF16Linear>();
    case WeightFormat::kI8:
      TRIREME_CHECK(encoding.group == kQuantBlock && !encoding.has_zeros);
      return run.template operator()<I8Linear>();
    case WeightFormat::kI4:
      TRIREME_CHECK(encoding.group > 0 && encoding.group % kSumGroup == 0);
      TRIREME_CHECK(kQuantBlock % encoding.group == 0);
      return run.template operator()<I4Linear>();
  }
}

void check_input(const GemmInput& x, const Weight& weight) {
  TRIREME_CHECK(x.values.rank == 2 && x.values.dtype == gemm_input_dtype(weight.format()));
  TRIREME_CHECK(x.values.shape[1] == weight.k_in);
}

void check_output(const GemmInput& out, Tensor x) {
  TRIREME_CHECK(x.rank == 2 && x.dtype == DType::kF32 && out.values.rank == 2);
  TRIREME_CHECK(out.values.shape[0] == x.shape[0] && out.values.shape[1] == x.shape[1]);
}

TRIREME_INLINE const float* row_of(Tensor x, int64_t row) {
  return static_cast<const float*>(x.data) + row * x.row_stride;
}
TRIREME_INLINE float* mutable_row_of(Tensor x, int64_t row) {
  return static_cast<float*>(x.data) + row * x.row_stride;
}

// Rows a thread takes at a time where a row is little work.
constexpr int64_t kRowGrain = 8;

void embed(Stream stream, Tensor out, Tensor ids, const Weight& embedding, int32_t first_id) {
  TRIREME_CHECK(out.rank == 2 && out.dtype == DType::kF32);
  TRIREME_CHECK(ids.dtype == DType::kI32 && ids.shape[0] == out.shape[0]);
  TRIREME_CHECK(out.shape[1] == embedding.k_in || embedding.blocks.empty());
  parallel_for(stream.pool, out.shape[0], 1, [&](int64_t begin, int64_t end) {
    embed_rows(out, ids, embedding, first_id, begin, end);
  });
}

void to_gemm_input(Stream stream, const GemmInput& out, Tensor x) {
  check_output(out, x);
  parallel_for(stream.pool, x.shape[0], kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) put_row(out, r, row_of(x, r));
  });
}

void rms_norm(Stream stream, Tensor out, Tensor x, const float* weight, float eps) {
  TRIREME_CHECK(x.dtype == DType::kF32 && out.dtype == DType::kF32);
  TRIREME_CHECK((x.rank == 2 || x.rank == 3) && out.rank == x.rank && out.shape == x.shape);
  rms_norm_rows(stream, out, x, weight, eps);
}

void rms_norm_input(Stream stream, const GemmInput& out, Tensor x, const float* weight, float eps) {
  check_output(out, x);
  parallel_for(stream.pool, x.shape[0], kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) put_normed(out, r, row_of(x, r), weight, eps);
  });
}

void add_rms_norm_input(Stream stream, const GemmInput& out, Tensor x, Tensor y, const float* bias,
                        const float* weight, float eps) {
  check_output(out, x);
  TRIREME_CHECK(y.shape[0] == x.shape[0] && y.shape[1] == x.shape[1] && y.dtype == DType::kF32);
  parallel_for(stream.pool, x.shape[0], kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      add_row(mutable_row_of(x, r), row_of(y, r), bias, x.shape[1]);
      put_normed(out, r, row_of(x, r), weight, eps);
    }
  });
}

void linear(Stream stream, Tensor out, const GemmInput& x, const Weight& weight) {
  check_input(x, weight);
  TRIREME_CHECK(out.dtype == DType::kF32 && out.shape[1] == weight.n_out);
  TRIREME_CHECK(x.values.shape[0] == out.shape[0] && x.spans.size() == 1);
  if (out.shape[0] == 0 || weight.blocks.empty()) return;
  with_format(weight.encoding, [&]<typename F>() { linear_typed<F>(stream, out, x, weight); });
}

void linear_tree(Stream stream, Tensor out, const GemmInput& x, const Weight& weight,
                 int32_t first_leaf, std::span<const TreeNode> nodes) {
  check_input(x, weight);
  TRIREME_CHECK(out.dtype == DType::kF32 && out.shape[2] == weight.n_out);
  TRIREME_CHECK(out.shape[0] == static_cast<int64_t>(nodes.size()) && out.is_dense());
  TRIREME_CHECK(x.values.shape[0] == out.shape[1] && x.spans.size() == weight.blocks.size());
  TRIREME_CHECK(!nodes.empty() && nodes.front().begin == first_leaf);
  TRIREME_CHECK(nodes.back().end - first_leaf == static_cast<int>(weight.blocks.size()));
  if (out.shape[1] == 0) return;
  with_format(weight.encoding, [&]<typename F>() {
    linear_tree_typed<F>(stream, out, x, weight, first_leaf, nodes);
  });
}

void gate_up(Stream stream, const GemmInput& out, const GemmInput& x, const Weight& gate,
             const Weight& up, Tensor gate_out, Tensor up_out) {
  check_input(x, gate);
  check_output(out, gate_out);
  check_output(out, up_out);
  TRIREME_CHECK(gate.encoding == up.encoding && gate.n_out == up.n_out && up.k_in == gate.k_in);
  TRIREME_CHECK(gate_out.shape[1] == gate.n_out && x.spans.size() == 1);
  TRIREME_CHECK(out.spans.size() == gate.blocks.size() && up.blocks.size() == gate.blocks.size());
  with_format(gate.encoding,
              [&]<typename F>() { gate_up_typed<F>(stream, out, x, gate, up, gate_out, up_out); });
}

void rope_table(Stream stream, Tensor cos, Tensor sin, Tensor positions, const float* inv_freq,
                float scale) {
  TRIREME_CHECK(cos.shape[0] == positions.shape[0] && sin.shape[0] == positions.shape[0]);
  TRIREME_CHECK(cos.shape[1] == sin.shape[1] && positions.dtype == DType::kI32);
  parallel_for(stream.pool, cos.shape[0], kRowGrain, [&](int64_t begin, int64_t end) {
    rope_table_rows(cos, sin, positions, inv_freq, scale, begin, end);
  });
}

void check_rope(Tensor x, Tensor cos, Tensor sin) {
  TRIREME_CHECK(x.rank == 3 && x.dtype == DType::kF32 && x.shape[2] == 2 * cos.shape[1]);
  TRIREME_CHECK(cos.shape[0] == x.shape[0] && sin.shape[0] == x.shape[0]);
}

void rope(Stream stream, Tensor x, Tensor cos, Tensor sin) {
  check_rope(x, cos, sin);
  parallel_for(stream.pool, x.shape[0], kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) rope_token(x, cos, sin, t);
  });
}

void store_kv(Stream stream, const KvLayer& kv, Tensor k, Tensor v, Tensor slot_mapping) {
  TRIREME_CHECK(k.rank == 3 && k.shape[1] == kv.n_kv_heads && k.shape[2] == kv.head_dim);
  TRIREME_CHECK(v.rank == 3 && v.shape[1] == kv.n_kv_heads && v.shape[2] == kv.head_dim);
  TRIREME_CHECK(slot_mapping.shape[0] == k.shape[0] && v.shape[0] == k.shape[0]);
  TRIREME_CHECK(kv.head_dim <= kMaxHeadDim && kv.head_dim % 2 == 0);
  if (kv.dtype == DType::kF32) return store_kv_typed<float>(stream, kv, k, v, slot_mapping);
  if (kv.dtype == DType::kBF16) return store_kv_typed<BF16>(stream, kv, k, v, slot_mapping);
  TRIREME_CHECK(kv.dtype == DType::kI8 && kv.k_scales != nullptr && kv.v_scales != nullptr);
  store_kv_typed<int8_t>(stream, kv, k, v, slot_mapping);
}

template <typename Out>
void paged_attention_to(Stream stream, Tensor out, Tensor q, const KvLayer& kv,
                        const AttentionMeta& meta) {
  if (kv.dtype == DType::kF32) return paged_attention_typed<float, Out>(stream, out, q, kv, meta);
  if (kv.dtype == DType::kBF16) return paged_attention_typed<BF16, Out>(stream, out, q, kv, meta);
  TRIREME_CHECK(kv.dtype == DType::kI8);
  paged_attention_typed<int8_t, Out>(stream, out, q, kv, meta);
}

void rope_store_kv(Stream stream, const KvLayer& kv, Tensor q, Tensor k, Tensor v, Tensor cos,
                   Tensor sin, Tensor slot_mapping) {
  check_rope(q, cos, sin);
  check_rope(k, cos, sin);
  parallel_for(stream.pool, q.shape[0], kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      rope_token(q, cos, sin, t);
      rope_token(k, cos, sin, t);
    }
  });
  store_kv(stream, kv, k, v, slot_mapping);
}

void paged_attention(Stream stream, Tensor out, Tensor q, const KvLayer& kv,
                     const AttentionMeta& meta) {
  TRIREME_CHECK(q.rank == 3 && q.dtype == DType::kF32 && q.shape[2] == kv.head_dim);
  TRIREME_CHECK(q.shape[1] == meta.n_heads && kv.head_dim <= kMaxHeadDim && kv.head_dim % 2 == 0);
  TRIREME_CHECK(out.shape[0] == q.shape[0] && out.shape[1] == q.shape[1] * q.shape[2]);
  TRIREME_CHECK(meta.block_table_stride % kChunkBlocks == 0);
  if (out.dtype == DType::kF32) {
    paged_attention_to<float>(stream, out, q, kv, meta);
  } else {
    paged_attention_to<BF16>(stream, out, q, kv, meta);
  }
}

void silu_mul(Stream stream, Tensor out, Tensor gate, Tensor up) {
  TRIREME_CHECK(gate.shape[0] == up.shape[0] && gate.shape[1] == up.shape[1]);
  TRIREME_CHECK(out.shape[0] == gate.shape[0] && out.shape[1] == gate.shape[1]);
  TRIREME_CHECK(out.dtype == DType::kF32);
  parallel_for(stream.pool, gate.shape[0], kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      silu_mul_row(mutable_row_of(out, r), row_of(gate, r), row_of(up, r), gate.shape[1]);
    }
  });
}

void add(Stream stream, Tensor x, Tensor y, const float* bias) {
  TRIREME_CHECK(x.shape[0] == y.shape[0] && x.shape[1] == y.shape[1]);
  TRIREME_CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32);
  parallel_for(stream.pool, x.shape[0], kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      add_row(mutable_row_of(x, r), row_of(y, r), bias, x.shape[1]);
    }
  });
}

void argmax(Stream stream, Tensor ids, Tensor logits) {
  TRIREME_CHECK(ids.shape[0] == logits.shape[0] && logits.dtype == DType::kF32);
  TRIREME_CHECK(ids.dtype == DType::kI32 && logits.shape[1] > 0);
  parallel_for(stream.pool, logits.shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      static_cast<int32_t*>(ids.data)[r] = argmax_row(row_of(logits, r), logits.shape[1]);
    }
  });
}

void log_sum_exp(Stream stream, Tensor out, Tensor logits) {
  TRIREME_CHECK(out.shape[0] == logits.shape[0] && logits.dtype == DType::kF32);
  for (int64_t r = 0; r < logits.shape[0]; ++r) {
    static_cast<float*>(out.data)[r] = log_sum_exp_row(stream, row_of(logits, r), logits.shape[1]);
  }
}

void scaled_exp(Stream, Tensor out, Tensor x, float max, float scale) {
  TRIREME_CHECK(out.shape[0] == x.shape[0] && out.rank == 1 && x.rank == 1);
  scaled_exp_row(static_cast<float*>(out.data), static_cast<const float*>(x.data), x.shape[0], max,
                 scale);
}

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = {
    .name = TRIREME_TEXT(TRIREME_ISA),
    .embed = embed,
    .to_gemm_input = to_gemm_input,
    .rms_norm = rms_norm,
    .rms_norm_input = rms_norm_input,
    .add_rms_norm_input = add_rms_norm_input,
    .linear = linear,
    .linear_tree = linear_tree,
    .gate_up = gate_up,
    .rope_table = rope_table,
    .rope = rope,
    .store_kv = store_kv,
    .rope_store_kv = rope_store_kv,
    .paged_attention = paged_attention,
    .silu_mul = silu_mul,
    .add = add,
    .argmax = argmax,
    .log_sum_exp = log_sum_exp,
    .scaled_exp = scaled_exp,
};

}  // namespace trireme::TRIREME_ISA
