#pragma once

#include <cstdint>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/gemm_input.h"
#include "model/partition.h"

namespace trireme {

// Rows of float32 of one width.
class FloatBuffer {
 public:
  FloatBuffer(int64_t rows, int64_t columns, Device device);

  Tensor rows(int64_t n) const {
    return make_tensor(memory_.data(), DType::kF32, {n, columns_}, memory_.device());
  }
  // Columns [begin, begin + n_columns) of the first n rows.
  Tensor columns(int64_t n, int64_t begin, int64_t n_columns) const;
  float* data() const { return static_cast<float*>(memory_.data()); }
  int64_t n_columns() const { return columns_; }
  uint64_t size_bytes() const { return memory_.size_bytes(); }

 private:
  Buffer memory_;
  int64_t columns_;
};

// Rows of a GEMM's input, with the places between its spans zero.
class GemmInputBuffer {
 public:
  // `widths`: columns of each span.
  GemmInputBuffer(int64_t rows, const std::vector<int32_t>& widths, DType dtype, Device device);

  GemmInput rows(int64_t n) const;
  uint64_t size_bytes() const;

 private:
  std::vector<InputSpan> spans_;
  int64_t columns_ = 0;
  int64_t stride_ = 0;
  DType dtype_;
  Buffer values_;
  Buffer scales_;
  Buffer sums_;
};

// What decides the sizes of a stage's workspace.
struct WorkspaceShape {
  const ModelConfig* config = nullptr;
  const ShardPlan* shard = nullptr;
  WeightFormat layer_format = WeightFormat::kBF16;
  WeightFormat head_format = WeightFormat::kBF16;
  int32_t max_tokens = 0;
  int32_t max_logit_rows = 0;
  Device device;
};

// Everything between the operators of a stage, allocated once. Pages never touched cost nothing.
struct StageWorkspace {
  explicit StageWorkspace(const WorkspaceShape& shape);
  uint64_t size_bytes() const;

  FloatBuffer residual;              // [max_tokens, hidden]
  FloatBuffer normed;                // [max_tokens, hidden]; unfused, and of the last rows
  GemmInputBuffer hidden_input;      // [max_tokens, hidden]
  FloatBuffer qkv;                   // [max_tokens, (heads + 2 * kv_heads) * head_dim]
  FloatBuffer cos, sin;              // [max_tokens, head_dim / 2]
  FloatBuffer attended;              // [max_tokens, n_heads * head_dim]
  Buffer attention_scratch;          // attention_scratch_bytes()
  GemmInputBuffer attended_input;    // the same, a span for each attention leaf
  FloatBuffer gate, up;              // [max_tokens, mlp_columns]
  GemmInputBuffer activation_input;  // the same, a span for each MLP leaf
  FloatBuffer partials;              // [max_nodes * max_tokens, hidden]
  FloatBuffer reduced;               // [max_tokens, hidden]
  FloatBuffer head_rows;             // [max_logit_rows, hidden]
  GemmInputBuffer head_input;        // the same
  FloatBuffer local_logits;          // [max_logit_rows, vocab columns of the widest rank]
  FloatBuffer gathered;              // [tp * max_logit_rows, the same], tp_rank 0 keeps it
  FloatBuffer logits;                // [max_logit_rows, vocab_size], tp_rank 0
};

}  // namespace trireme
