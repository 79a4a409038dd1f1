#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/weight.h"

namespace trireme {

// What a pipeline stage does in a layer, operator by operator, and the fused operators that stand
// for several of them with the same bits.
enum class OpKind : uint8_t {
  kInputNorm,
  kQuantizeNormed,  // rounds or quantizes: the input of the next GEMM
  kQuery,
  kKey,
  kValue,
  kQkNorm,
  kRopeQuery,
  kRopeKey,
  kStoreKv,
  kAttention,
  kQuantizeAttended,
  kAttentionOut,  // row-parallel: leaves, then the sum over ranks
  kAddAttention,
  kPostNorm,
  kGate,
  kUp,
  kSiluMul,
  kQuantizeActivation,
  kMlpOut,
  kAddMlp,
  // Fused.
  kInputNormQuantize,
  kAddInputNormQuantize,  // kAddMlp of the layer before
  kQkv,
  kRopeStoreKv,
  kAttentionQuantize,
  kAddPostNormQuantize,
  kGateUpQuantize,
};
std::string_view op_name(OpKind kind);

struct StageOp {
  OpKind kind;
  int32_t layer;  // local index; of kAddInputNormQuantize, the layer of the norm
  bool operator==(const StageOp&) const = default;
};

struct GraphOptions {
  int32_t n_layers = 0;
  bool qk_norm = false;
  bool fuse = true;
  bool same_qkv = true;  // q, k and v have one encoding
  WeightFormat format = WeightFormat::kBF16;
};

// The operators of a stage's layers in the order they run.
std::vector<StageOp> make_stage_graph(const GraphOptions& options);

}  // namespace trireme
