#include "model/op_cost.h"

#include <algorithm>

#include "kernels/gemm_input.h"

namespace trireme {
namespace {

// Costs in terms of a step's widths. Fused operators are written out: they skip what would be
// stored and read again between their parts.
class CostModel {
 public:
  explicit CostModel(const StepShape& s)
      : s_(s),
        tokens_(static_cast<double>(s.n_tokens)),
        hidden_(s.config->hidden_size),
        q_(static_cast<double>(s.shard->heads.size()) * s.config->head_dim),
        kv_(static_cast<double>(s.shard->kv_heads.size()) * s.config->head_dim),
        mlp_(s.shard->mlp_columns.size()) {}

  OpCost cost(OpKind kind) const {
    switch (kind) {
      case OpKind::kInputNorm:
      case OpKind::kPostNorm: return norm() + moved(floats(hidden_) * 2);
      case OpKind::kInputNormQuantize:
        return norm() + quantize(hidden_) + moved(floats(hidden_) + input(hidden_));
      case OpKind::kAddInputNormQuantize:
      case OpKind::kAddPostNormQuantize:
        return add() + norm() + quantize(hidden_) + moved(floats(hidden_) * 3 + input(hidden_));
      case OpKind::kAddAttention:
      case OpKind::kAddMlp: return add() + moved(floats(hidden_) * 3);
      case OpKind::kQuantizeNormed: return whole_quantize(hidden_);
      case OpKind::kQuantizeAttended: return whole_quantize(q_);
      case OpKind::kQuantizeActivation: return whole_quantize(mlp_);
      case OpKind::kQuery: return gemm(q_, hidden_) + moved(input(hidden_) + floats(q_));
      case OpKind::kKey:
      case OpKind::kValue: return gemm(kv_, hidden_) + moved(input(hidden_) + floats(kv_));
      case OpKind::kQkv:
        return gemm(q_ + 2 * kv_, hidden_) + moved(input(hidden_) + floats(q_ + 2 * kv_));
      case OpKind::kQkNorm: return {4 * tokens_ * (q_ + kv_), 2 * floats(q_ + kv_)};
      case OpKind::kRopeQuery: return rope(q_) + moved(2 * floats(q_));
      case OpKind::kRopeKey: return rope(kv_) + moved(2 * floats(kv_));
      case OpKind::kStoreKv: return moved(2 * floats(kv_) + 2 * tokens_ * kv_position());
      case OpKind::kRopeStoreKv:
        return rope(q_) + rope(kv_) +
               moved(2 * floats(q_) + 2 * floats(kv_) + 2 * tokens_ * kv_position());
      case OpKind::kAttention: return attention() + moved(floats(q_) * 2);
      case OpKind::kAttentionQuantize:
        return attention() + quantize(q_) + moved(floats(q_) + input(q_));
      case OpKind::kAttentionOut: return gemm(hidden_, q_) + moved(input(q_) + floats(hidden_));
      case OpKind::kGate:
      case OpKind::kUp: return gemm(mlp_, hidden_) + moved(input(hidden_) + floats(mlp_));
      case OpKind::kSiluMul: return silu() + moved(3 * floats(mlp_));
      case OpKind::kGateUpQuantize:
        return gemm(2 * mlp_, hidden_) + silu() + quantize(mlp_) +
               moved(input(hidden_) + input(mlp_));
      case OpKind::kMlpOut: return gemm(hidden_, mlp_) + moved(input(mlp_) + floats(hidden_));
    }
    return {};
  }

 private:
  double floats(double columns) const { return 4 * tokens_ * columns; }
  double input(double columns) const {
    const DType dtype = gemm_input_dtype(s_.encoding.format);
    double each = static_cast<double>(dtype_size(dtype));
    if (dtype == DType::kI8) each += 4.0 / kQuantBlock + 4.0 / kSumGroup;
    return tokens_ * columns * each;
  }
  static OpCost moved(double bytes) { return {0, bytes}; }
  OpCost norm() const { return {4 * tokens_ * hidden_, 0}; }
  OpCost add() const { return {tokens_ * hidden_, 0}; }
  OpCost quantize(double columns) const {
    return {is_quantized(s_.encoding.format) ? 3 * tokens_ * columns : 0, 0};
  }
  OpCost whole_quantize(double columns) const {
    return quantize(columns) + moved(floats(columns) + input(columns));
  }
  OpCost rope(double columns) const { return {3 * tokens_ * columns, 0}; }
  // exp as some ten operations.
  OpCost silu() const { return {14 * tokens_ * mlp_, 0}; }
  // Weights only: what goes in and out is the caller's.
  OpCost gemm(double n, double k) const {
    const double weights = static_cast<double>(
        block_parts_of(s_.encoding, static_cast<int64_t>(n), static_cast<int64_t>(k)).size);
    return {2 * tokens_ * n * k, weights};
  }
  // One side of one position.
  double kv_position() const {
    const double scales = s_.kv_dtype == DType::kI8 ? 4.0 * s_.shard->kv_heads.size() : 0.0;
    return kv_ * static_cast<double>(dtype_size(s_.kv_dtype)) + scales;
  }
  // Each sequence's cache is read once, shared by its tokens of the step.
  OpCost attention() const {
    const auto context = static_cast<double>(s_.context);
    return {4 * tokens_ * context * q_, 2 * context * kv_position()};
  }

  const StepShape& s_;
  double tokens_, hidden_, q_, kv_, mlp_;
};

}  // namespace

OpCost op_cost(OpKind kind, const StepShape& shape) { return CostModel(shape).cost(kind); }

std::vector<GraphLine> graph_lines(const std::vector<StageOp>& graph, const StepShape& shape) {
  std::vector<GraphLine> lines;
  for (const StageOp& op : graph) {
    auto line = std::find_if(lines.begin(), lines.end(),
                             [&](const GraphLine& l) { return l.kind == op.kind; });
    if (line == lines.end()) line = lines.insert(lines.end(), {op.kind, 0, {}});
    ++line->n_calls;
    line->cost = line->cost + op_cost(op.kind, shape);
  }
  return lines;
}

}  // namespace trireme
