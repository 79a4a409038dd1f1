#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "comm/control/step_plan.h"
#include "kernels/tensor.h"

namespace trireme {

// The operators whose outputs are hashed for `trireme diff`, in the order a step runs them.
enum class TraceOp : int32_t {
  kEmbedding,
  kInputNorm,
  kQuery,
  kKey,
  kValue,
  kAttention,
  kAttentionOut,
  kAttentionResidual,
  kPostNorm,
  kActivation,
  kMlpOut,
  kMlpResidual,
  kFinalNorm,
  kLogits,
};
std::string_view trace_op_name(int32_t op);  // "unknown" for a row that does not exist

// Collects hashes of operator outputs. Units are what every layout has in common: heads, leaves,
// vocabulary chunks, or the whole row (unit 0).
class TraceSink {
 public:
  explicit TraceSink(std::vector<TraceEntry>& entries) : entries_(entries) {}

  // Columns [begin, end) of every row of x, the bytes in row order.
  void add(int32_t layer, TraceOp op, int32_t unit, Tensor x, int64_t begin, int64_t end);
  // All columns.
  void add(int32_t layer, TraceOp op, Tensor x) { add(layer, op, 0, x, 0, x.row_size()); }

 private:
  std::vector<TraceEntry>& entries_;
};

}  // namespace trireme
