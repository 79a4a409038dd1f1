#include "model/stage_graph.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/op_cost.h"

namespace trireme::test {
namespace {

std::vector<OpKind> kinds(const std::vector<StageOp>& graph) {
  std::vector<OpKind> out;
  for (const StageOp& op : graph) out.push_back(op.kind);
  return out;
}

bool contains(const std::vector<StageOp>& graph, OpKind kind) {
  return std::any_of(graph.begin(), graph.end(),
                     [&](const StageOp& op) { return op.kind == kind; });
}

TEST(StageGraph, FusesAcrossLayers) {
  const auto graph = make_stage_graph({.n_layers = 2, .format = WeightFormat::kBF16});
  EXPECT_EQ(kinds(graph),
            (std::vector<OpKind>{OpKind::kInputNormQuantize, OpKind::kQkv, OpKind::kRopeStoreKv,
                                 OpKind::kAttentionQuantize, OpKind::kAttentionOut,
                                 OpKind::kAddPostNormQuantize, OpKind::kGateUpQuantize,
                                 OpKind::kMlpOut, OpKind::kAddInputNormQuantize, OpKind::kQkv,
                                 OpKind::kRopeStoreKv, OpKind::kAttentionQuantize,
                                 OpKind::kAttentionOut, OpKind::kAddPostNormQuantize,
                                 OpKind::kGateUpQuantize, OpKind::kMlpOut, OpKind::kAddMlp}));
  EXPECT_EQ(graph[8].layer, 1);
  EXPECT_EQ(graph[7].layer, 0);
}

TEST(StageGraph, KeepsApartWhatCannotBeFused) {
  const auto quantized =
      make_stage_graph({.n_layers = 1, .qk_norm = true, .format = WeightFormat::kI8});
  EXPECT_FALSE(contains(quantized, OpKind::kAttentionQuantize));
  EXPECT_TRUE(contains(quantized, OpKind::kQuantizeAttended));
  EXPECT_TRUE(contains(quantized, OpKind::kQkNorm));
  const auto mixed = make_stage_graph({.n_layers = 1, .same_qkv = false});
  EXPECT_FALSE(contains(mixed, OpKind::kQkv));
  EXPECT_TRUE(contains(mixed, OpKind::kKey));
}

TEST(StageGraph, UnfusedIsEveryOperator) {
  const auto graph = make_stage_graph({.n_layers = 3, .qk_norm = true, .fuse = false});
  EXPECT_EQ(graph.size(), 3U * 21U);
  for (const StageOp& op : graph) EXPECT_LT(op.kind, OpKind::kInputNormQuantize);
}

TEST(OpCost, FusionKeepsTheWorkAndMovesLess) {
  ModelConfig config;
  config.hidden_size = 256;
  config.head_dim = 32;
  ShardPlan shard;
  shard.layers = {0, 4};
  shard.heads = {0, 8};
  shard.kv_heads = {0, 2};
  shard.mlp_columns = {0, 768};
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kI4}) {
    const StepShape shape{.config = &config,
                          .shard = &shard,
                          .encoding = default_encoding(format),
                          .n_tokens = 7,
                          .context = 100};
    const auto total = [&](bool fuse) {
      OpCost sum;
      const auto graph = make_stage_graph({.n_layers = 4, .fuse = fuse, .format = format});
      for (const GraphLine& line : graph_lines(graph, shape)) sum = sum + line.cost;
      return sum;
    };
    EXPECT_DOUBLE_EQ(total(false).flops, total(true).flops);
    EXPECT_LT(total(true).bytes, total(false).bytes);
    // Nearly all of it is the products of weights and inputs.
    const double weights = 4.0 * (256 * (256 + 2 * 64) + 256 * 256 + 3 * 256 * 768);
    EXPECT_GT(total(true).flops, 2 * 7 * weights);
    EXPECT_LT(total(true).flops, 2 * 7 * weights * 1.1);
  }
}

}  // namespace
}  // namespace trireme::test
