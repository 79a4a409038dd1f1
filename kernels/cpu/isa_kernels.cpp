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

DType gemm_dtype(WeightFormat format) {
  return format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
}

void embed(Stream, Tensor out, Tensor ids, const Weight& embedding, int32_t first_id) {
  TRIREME_CHECK(out.rank == 2 && out.dtype == DType::kF32);
  TRIREME_CHECK(ids.dtype == DType::kI32 && ids.shape[0] == out.shape[0]);
  TRIREME_CHECK(out.shape[1] == embedding.k_in || embedding.blocks.empty());
  if (embedding.format == WeightFormat::kF32) {
    embed_typed<float>(out, ids, embedding, first_id);
  } else {
    embed_typed<BF16>(out, ids, embedding, first_id);
  }
}

void rms_norm(Stream stream, Tensor out, Tensor x, const float* weight, float eps) {
  TRIREME_CHECK(x.rank == 2 && out.rank == 2 && x.dtype == DType::kF32);
  TRIREME_CHECK(out.shape[0] == x.shape[0] && out.shape[1] == x.shape[1]);
  if (out.dtype == DType::kF32) {
    rms_norm_typed<float>(stream, out, x, weight, eps);
  } else {
    rms_norm_typed<BF16>(stream, out, x, weight, eps);
  }
}

void linear(Stream stream, Tensor out, Tensor x, const Weight& weight) {
  TRIREME_CHECK(x.dtype == gemm_dtype(weight.format) && out.dtype == DType::kF32);
  TRIREME_CHECK(x.shape[1] == weight.k_in && out.shape[1] == weight.n_out);
  TRIREME_CHECK(x.shape[0] == out.shape[0] && x.row_stride >= k_padded(weight.k_in));
  if (x.shape[0] == 0 || weight.blocks.empty()) return;
  if (weight.format == WeightFormat::kF32) {
    linear_typed<float>(stream, out, x, weight);
  } else {
    linear_typed<BF16>(stream, out, x, weight);
  }
}

void linear_tree(Stream stream, Tensor out, Tensor x, const Weight& weight, int32_t first_leaf,
                 std::span<const TreeNode> nodes) {
  TRIREME_CHECK(x.dtype == gemm_dtype(weight.format) && out.dtype == DType::kF32);
  TRIREME_CHECK(x.shape[1] == weight.k_in && out.shape[2] == weight.n_out);
  TRIREME_CHECK(out.shape[0] == static_cast<int64_t>(nodes.size()) && out.is_dense());
  TRIREME_CHECK(x.shape[0] == out.shape[1] && x.row_stride >= k_padded(weight.k_in));
  TRIREME_CHECK(!nodes.empty() && nodes.front().begin == first_leaf);
  TRIREME_CHECK(nodes.back().end - first_leaf == static_cast<int>(weight.blocks.size()));
  if (x.shape[0] == 0) return;
  if (weight.format == WeightFormat::kF32) {
    linear_tree_typed<float>(stream, out, x, weight, first_leaf, nodes);
  } else {
    linear_tree_typed<BF16>(stream, out, x, weight, first_leaf, nodes);
  }
}

void rope_table(Stream, Tensor cos, Tensor sin, Tensor positions, const float* inv_freq,
                float scale) {
  TRIREME_CHECK(cos.shape[0] == positions.shape[0] && sin.shape[0] == positions.shape[0]);
  TRIREME_CHECK(cos.shape[1] == sin.shape[1] && positions.dtype == DType::kI32);
  rope_table_rows(cos, sin, positions, inv_freq, scale);
}

void rope(Stream stream, Tensor x, Tensor cos, Tensor sin) {
  TRIREME_CHECK(x.rank == 3 && x.dtype == DType::kF32 && x.shape[2] == 2 * cos.shape[1]);
  TRIREME_CHECK(cos.shape[0] == x.shape[0] && sin.shape[0] == x.shape[0]);
  rope_rows(stream, x, cos, sin);
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
  if (out.dtype == DType::kF32) {
    silu_mul_typed<float>(stream, out, gate, up);
  } else {
    silu_mul_typed<BF16>(stream, out, gate, up);
  }
}

void add(Stream stream, Tensor x, Tensor y, const float* bias) {
  TRIREME_CHECK(x.shape[0] == y.shape[0] && x.shape[1] == y.shape[1]);
  TRIREME_CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32);
  add_rows(stream, x, y, bias);
}

void log_sum_exp(Stream stream, Tensor out, Tensor logits) {
  TRIREME_CHECK(out.shape[0] == logits.shape[0] && logits.dtype == DType::kF32);
  parallel_for(stream.pool, logits.shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      static_cast<float*>(out.data)[r] = log_sum_exp_row(
          static_cast<const float*>(logits.data) + r * logits.row_stride, logits.shape[1]);
    }
  });
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
    .rms_norm = rms_norm,
    .linear = linear,
    .linear_tree = linear_tree,
    .rope_table = rope_table,
    .rope = rope,
    .store_kv = store_kv,
    .paged_attention = paged_attention,
    .silu_mul = silu_mul,
    .add = add,
    .log_sum_exp = log_sum_exp,
    .scaled_exp = scaled_exp,
};

}  // namespace trireme::TRIREME_ISA
