#include "model/stage_graph.h"

#include <algorithm>
#include <array>
#include <span>

#include "kernels/check.h"
#include "kernels/gemm_input.h"

namespace trireme {
namespace {

// A run of operators and the one that does the same in one pass over memory.
struct FusionRule {
  OpKind fused;
  std::array<OpKind, 4> parts;
  size_t n_parts;
  std::span<const OpKind> pattern() const { return std::span(parts).first(n_parts); }
};

// Longer patterns first where two begin alike.
constexpr std::array kRules = {
    FusionRule{OpKind::kAddInputNormQuantize,
               {OpKind::kAddMlp, OpKind::kInputNorm, OpKind::kQuantizeNormed},
               3},
    FusionRule{OpKind::kInputNormQuantize, {OpKind::kInputNorm, OpKind::kQuantizeNormed}, 2},
    FusionRule{OpKind::kQkv, {OpKind::kQuery, OpKind::kKey, OpKind::kValue}, 3},
    FusionRule{OpKind::kRopeStoreKv, {OpKind::kRopeQuery, OpKind::kRopeKey, OpKind::kStoreKv}, 3},
    FusionRule{OpKind::kAttentionQuantize, {OpKind::kAttention, OpKind::kQuantizeAttended}, 2},
    FusionRule{OpKind::kAddPostNormQuantize,
               {OpKind::kAddAttention, OpKind::kPostNorm, OpKind::kQuantizeNormed},
               3},
    FusionRule{OpKind::kGateUpQuantize,
               {OpKind::kGate, OpKind::kUp, OpKind::kSiluMul, OpKind::kQuantizeActivation},
               4},
};

bool applies(const FusionRule& rule, const GraphOptions& options) {
  if (rule.fused == OpKind::kQkv) return options.same_qkv;
  // A block of quantized inputs spans several heads, which different threads compute.
  if (rule.fused == OpKind::kAttentionQuantize) return !is_quantized(options.format);
  return true;
}

void list_layer(const GraphOptions& options, int32_t layer, std::vector<StageOp>& out) {
  const auto add = [&](std::initializer_list<OpKind> kinds) {
    for (const OpKind kind : kinds) out.push_back({kind, layer});
  };
  add({OpKind::kInputNorm, OpKind::kQuantizeNormed, OpKind::kQuery, OpKind::kKey, OpKind::kValue});
  if (options.qk_norm) add({OpKind::kQkNorm});
  add({OpKind::kRopeQuery, OpKind::kRopeKey, OpKind::kStoreKv, OpKind::kAttention,
       OpKind::kQuantizeAttended, OpKind::kAttentionOut, OpKind::kAddAttention, OpKind::kPostNorm,
       OpKind::kQuantizeNormed, OpKind::kGate, OpKind::kUp, OpKind::kSiluMul,
       OpKind::kQuantizeActivation, OpKind::kMlpOut, OpKind::kAddMlp});
}

std::vector<StageOp> fuse(const std::vector<StageOp>& plain, const GraphOptions& options) {
  std::vector<StageOp> out;
  for (size_t i = 0; i < plain.size();) {
    const auto begins_here = [&](const FusionRule& rule) {
      const auto pattern = rule.pattern();
      return applies(rule, options) && i + pattern.size() <= plain.size() &&
             std::equal(pattern.begin(), pattern.end(), plain.begin() + static_cast<int64_t>(i),
                        [](OpKind kind, const StageOp& op) { return kind == op.kind; });
    };
    const auto rule = std::find_if(kRules.begin(), kRules.end(), begins_here);
    if (rule == kRules.end()) {
      out.push_back(plain[i++]);
      continue;
    }
    i += rule->n_parts;
    out.push_back({rule->fused, plain[i - 1].layer});
  }
  return out;
}

}  // namespace

std::string_view op_name(OpKind kind) {
  constexpr std::array<std::string_view, 27> kNames = {
      "input_norm",
      "quantize",
      "q",
      "k",
      "v",
      "qk_norm",
      "rope_q",
      "rope_k",
      "store_kv",
      "attention",
      "quantize_attended",
      "o",
      "add_attention",
      "post_norm",
      "gate",
      "up",
      "silu_mul",
      "quantize_activation",
      "down",
      "add_mlp",
      "input_norm+quantize",
      "add_mlp+input_norm+quantize",
      "qkv",
      "rope+store_kv",
      "attention+quantize",
      "add_attention+post_norm+quantize",
      "gate+up+silu_mul+quantize",
  };
  const auto i = static_cast<size_t>(kind);
  TRIREME_CHECK(i < kNames.size());
  return kNames[i];
}

std::vector<StageOp> make_stage_graph(const GraphOptions& options) {
  std::vector<StageOp> plain;
  for (int32_t layer = 0; layer < options.n_layers; ++layer) list_layer(options, layer, plain);
  return options.fuse ? fuse(plain, options) : plain;
}

}  // namespace trireme
