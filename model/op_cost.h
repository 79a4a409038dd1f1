#pragma once

#include <cstdint>
#include <vector>

#include "model/partition.h"
#include "model/stage_graph.h"

namespace trireme {

// What a rank's operators work on in one step.
struct StepShape {
  const ModelConfig* config = nullptr;
  const ShardPlan* shard = nullptr;
  WeightEncoding encoding;  // of the layers' weights
  DType kv_dtype = DType::kBF16;
  int64_t n_tokens = 1;
  int64_t context = 0;  // cached positions that each token reads, on average
};

// Arithmetic, and what moves between memory and the operator when nothing stays in a cache.
struct OpCost {
  double flops = 0;
  double bytes = 0;

  OpCost operator+(const OpCost& other) const { return {flops + other.flops, bytes + other.bytes}; }
};

OpCost op_cost(OpKind kind, const StepShape& shape);

// A stage's operators, those of one kind added up over its layers, in the order of their first use.
struct GraphLine {
  OpKind kind;
  int32_t n_calls = 0;
  OpCost cost;
};
std::vector<GraphLine> graph_lines(const std::vector<StageOp>& graph, const StepShape& shape);

}  // namespace trireme
