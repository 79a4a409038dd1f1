#include "model/stage_workspace.h"

#include <algorithm>

#include "kernels/kernel_table.h"

namespace trireme {
namespace {

constexpr const char* kWhat = "the step's workspace";
constexpr int64_t kDenseRowStep = 16;  // elements; rows of float inputs start aligned

int32_t max_vocab_columns(const ModelConfig& config, Layout layout) {
  const int32_t n_chunks = model_cuts(config).n_vocab_chunks;
  return std::min(config.vocab_size, div_ceil(n_chunks, layout.tp) * kVocabChunk);
}

int64_t max_nodes(const ShardPlan& shard) {
  return std::max(shard.attention_tree.n_nodes_of(shard.tp_rank),
                  shard.mlp_tree.n_nodes_of(shard.tp_rank));
}

std::vector<int32_t> attention_widths(const ModelConfig& config, const ShardPlan& shard) {
  const LeafCut cut = model_cuts(config).attention;
  std::vector<int32_t> widths;
  for (int leaf = shard.attention_leaves.begin; leaf < shard.attention_leaves.end; ++leaf) {
    widths.push_back(cut.units(leaf).size() * config.head_dim);
  }
  return widths;
}

std::vector<int32_t> mlp_widths(const ModelConfig& config, const ShardPlan& shard) {
  const ModelCuts cuts = model_cuts(config);
  std::vector<int32_t> widths;
  for (int leaf = shard.mlp_leaves.begin; leaf < shard.mlp_leaves.end; ++leaf) {
    widths.push_back(mlp_columns(config, cuts, leaf).size());
  }
  return widths;
}

int64_t qkv_columns(const ModelConfig& config, const ShardPlan& shard) {
  return (int64_t{shard.heads.size()} + 2 * int64_t{shard.kv_heads.size()}) * config.head_dim;
}

}  // namespace

FloatBuffer::FloatBuffer(int64_t rows, int64_t columns, Device device)
    : memory_(static_cast<size_t>(rows * columns) * sizeof(float), device, kWhat),
      columns_(columns) {}

Tensor FloatBuffer::columns(int64_t n, int64_t begin, int64_t n_columns) const {
  TRIREME_CHECK(begin >= 0 && begin + n_columns <= columns_);
  Tensor t = make_tensor(data() + begin, DType::kF32, {n, n_columns}, memory_.device());
  t.row_stride = columns_;
  return t;
}

GemmInputBuffer::GemmInputBuffer(int64_t rows, const std::vector<int32_t>& widths, DType dtype,
                                 Device device)
    : dtype_(dtype) {
  int64_t place = 0;
  for (const int32_t width : widths) {
    spans_.push_back({static_cast<int32_t>(columns_), width, static_cast<int32_t>(place)});
    columns_ += width;
    place = round_up(place + width, input_place_step(dtype));
  }
  stride_ = round_up(place, dtype == DType::kI8 ? int64_t{kQuantBlock} : kDenseRowStep);
  const auto n = static_cast<size_t>(rows * stride_);
  values_ = Buffer(n * dtype_size(dtype), device, kWhat);
  if (dtype != DType::kI8) return;
  scales_ = Buffer(n / kQuantBlock * sizeof(float), device, kWhat);
  sums_ = Buffer(n / kSumGroup * sizeof(int32_t), device, kWhat);
}

GemmInput GemmInputBuffer::rows(int64_t n) const {
  GemmInput in;
  in.values = make_tensor(values_.data(), dtype_, {n, columns_}, values_.device());
  in.values.row_stride = stride_;
  in.scales = static_cast<float*>(scales_.data());
  in.sums = static_cast<int32_t*>(sums_.data());
  in.spans = spans_;
  return in;
}

uint64_t GemmInputBuffer::size_bytes() const {
  return values_.size_bytes() + scales_.size_bytes() + sums_.size_bytes();
}

StageWorkspace::StageWorkspace(const WorkspaceShape& s)
    : residual(s.max_tokens, s.config->hidden_size, s.device),
      normed(s.max_tokens, s.config->hidden_size, s.device),
      hidden_input(s.max_tokens, {s.config->hidden_size}, gemm_input_dtype(s.layer_format),
                   s.device),
      qkv(s.max_tokens, qkv_columns(*s.config, *s.shard), s.device),
      cos(s.max_tokens, s.config->head_dim / 2, s.device),
      sin(s.max_tokens, s.config->head_dim / 2, s.device),
      attended(s.max_tokens, int64_t{s.shard->heads.size()} * s.config->head_dim, s.device),
      attention_scratch(attention_scratch_bytes(s.max_tokens, s.config->head_dim), s.device, kWhat),
      attended_input(s.max_tokens, attention_widths(*s.config, *s.shard),
                     gemm_input_dtype(s.layer_format), s.device),
      gate(s.max_tokens, s.shard->mlp_columns.size(), s.device),
      up(s.max_tokens, s.shard->mlp_columns.size(), s.device),
      activation_input(s.max_tokens, mlp_widths(*s.config, *s.shard),
                       gemm_input_dtype(s.layer_format), s.device),
      partials(max_nodes(*s.shard) * s.max_tokens, s.config->hidden_size, s.device),
      reduced(s.max_tokens, s.config->hidden_size, s.device),
      head_rows(s.max_logit_rows, s.config->hidden_size, s.device),
      head_input(s.max_logit_rows, {s.config->hidden_size}, gemm_input_dtype(s.head_format),
                 s.device),
      local_logits(s.max_logit_rows, max_vocab_columns(*s.config, s.shard->layout), s.device),
      gathered(int64_t{s.shard->layout.tp} * s.max_logit_rows,
               max_vocab_columns(*s.config, s.shard->layout), s.device),
      logits(s.max_logit_rows, s.config->vocab_size, s.device) {}

uint64_t StageWorkspace::size_bytes() const {
  uint64_t n = attention_scratch.size_bytes();
  for (const GemmInputBuffer* b :
       {&hidden_input, &attended_input, &activation_input, &head_input}) {
    n += b->size_bytes();
  }
  for (const FloatBuffer* b :
       {&residual, &normed, &qkv, &cos, &sin, &attended, &gate, &up, &partials, &reduced,
        &head_rows, &local_logits, &gathered, &logits}) {
    n += b->size_bytes();
  }
  return n;
}

}  // namespace trireme
