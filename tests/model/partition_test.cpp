#include "model/partition.h"

#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace trireme {
namespace {

using ::testing::HasSubstr;

ModelConfig config_of(int32_t n_heads, int32_t n_kv_heads, int32_t intermediate, int32_t n_layers,
                      int32_t vocab) {
  ModelConfig config;
  config.n_heads = n_heads;
  config.n_kv_heads = n_kv_heads;
  config.head_dim = 8;
  config.hidden_size = 64;
  config.intermediate_size = intermediate;
  config.n_layers = n_layers;
  config.vocab_size = vocab;
  return config;
}

ModelConfig random_config(std::mt19937& random) {
  const auto from_1_to = [&random](uint32_t n) { return static_cast<int32_t>(random() % n) + 1; };
  const int32_t n_kv_heads = from_1_to(12);
  return config_of(n_kv_heads * from_1_to(6), n_kv_heads, from_1_to(1500), from_1_to(9),
                   from_1_to(9000));
}

ShardPlan plan_of(const ModelConfig& config, Layout layout, int rank) {
  const Result<ShardPlan> plan = make_shard_plan(config, layout, rank);
  EXPECT_TRUE(plan.ok());
  return *plan;
}

// Ranges that follow one another cover [0, end) once each.
void expect_tiled(const std::vector<IndexRange>& ranges, int32_t end) {
  int32_t next = 0;
  for (const IndexRange& range : ranges) {
    EXPECT_EQ(range.begin, next);
    EXPECT_GE(range.size(), 0);
    next = range.end;
  }
  EXPECT_EQ(next, end);
}

// Everything that a stage's ranks own is owned once, and what belongs together is on one rank.
void expect_stage_complete(const ModelConfig& config, Layout layout, int pp_rank) {
  const ModelCuts cuts = model_cuts(config);
  std::vector<IndexRange> attention_leaves;
  std::vector<IndexRange> heads;
  std::vector<IndexRange> mlp_leaves;
  std::vector<IndexRange> columns;
  std::vector<IndexRange> chunks;
  std::vector<IndexRange> vocab;
  for (int tp_rank = 0; tp_rank < layout.tp; ++tp_rank) {
    const ShardPlan plan = plan_of(config, layout, layout.world_rank(pp_rank, tp_rank));
    EXPECT_EQ(plan.tp_rank, tp_rank);
    EXPECT_EQ(plan.pp_rank, pp_rank);
    EXPECT_GE(plan.attention_leaves.size(), 1);
    EXPECT_GE(plan.mlp_leaves.size(), 1);
    attention_leaves.push_back(plan.attention_leaves);
    heads.push_back(plan.heads);
    mlp_leaves.push_back(plan.mlp_leaves);
    columns.push_back(plan.mlp_columns);
    chunks.push_back(plan.vocab_chunks);
    vocab.push_back(plan.vocab);
    const int32_t group = config.n_heads / config.n_kv_heads;
    for (int32_t head = plan.heads.begin; head < plan.heads.end; ++head) {
      EXPECT_TRUE(plan.kv_heads.contains(head / group));
    }
    EXPECT_EQ(plan.kv_heads.begin, plan.heads.begin / group);
    EXPECT_EQ(plan.kv_heads.end, (plan.heads.end - 1) / group + 1);
    // The tree that the ranks sum over hands each of them just its own leaves.
    const auto begins_at = [&](const TreePlan& tree, int rank) {
      return tree.nodes[static_cast<size_t>(tree.first_node[static_cast<size_t>(rank)])].begin;
    };
    EXPECT_EQ(plan.attention_tree.n_leaves, cuts.attention.n_leaves);
    EXPECT_EQ(begins_at(plan.attention_tree, tp_rank), plan.attention_leaves.begin);
    EXPECT_EQ(begins_at(plan.mlp_tree, tp_rank), plan.mlp_leaves.begin);
  }
  expect_tiled(attention_leaves, cuts.attention.n_leaves);
  expect_tiled(heads, config.n_heads);
  expect_tiled(mlp_leaves, cuts.mlp.n_leaves);
  expect_tiled(columns, config.intermediate_size);
  expect_tiled(chunks, cuts.n_vocab_chunks);
  expect_tiled(vocab, config.vocab_size);
}

TEST(Partition, EveryLayoutOwnsEverythingOnce) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 60; ++trial) {
    const ModelConfig config = random_config(random);
    const int max_tp = model_cuts(config).max_tp();
    for (int tp = 1; tp <= max_tp; ++tp) {
      for (int pp = 1; pp <= config.n_layers; ++pp) {
        const Layout layout{tp, pp};
        SCOPED_TRACE(::testing::Message() << "trial " << trial << " tp " << tp << " pp " << pp);
        std::vector<IndexRange> layers;
        for (int stage = 0; stage < pp; ++stage) {
          layers.push_back(plan_of(config, layout, layout.world_rank(stage, tp - 1)).layers);
          EXPECT_GE(layers.back().size(), 1);
        }
        expect_tiled(layers, config.n_layers);
        expect_stage_complete(config, layout,
                              static_cast<int>(random() % static_cast<uint32_t>(pp)));
      }
    }
  }
}

TEST(Partition, TheLastStageHasFewerLayersForItsHead) {
  ModelConfig config = config_of(32, 8, 8192, 16, 128256);
  config.hidden_size = 2048;
  config.head_dim = 64;
  EXPECT_EQ(stage_layers(config, 1, 0), (IndexRange{0, 16}));
  EXPECT_EQ(stage_layers(config, 2, 0), (IndexRange{0, 9}));
  EXPECT_EQ(stage_layers(config, 2, 1), (IndexRange{9, 16}));
  EXPECT_EQ(stage_layers(config, 4, 3), (IndexRange{14, 16}))
      << "4 + 5 + 5 + 2: the head is worth 2";
  config.vocab_size = 1000;
  EXPECT_EQ(stage_layers(config, 2, 1), (IndexRange{8, 16}));
  config.n_layers = 2;
  config.vocab_size = 10000000;
  EXPECT_EQ(stage_layers(config, 2, 1), (IndexRange{1, 2})) << "each stage has a layer";
}

TEST(Partition, LeavesCoverTheirUnits) {
  for (int32_t n_units = 1; n_units <= 200; ++n_units) {
    const LeafCut cut = make_leaf_cut(n_units);
    EXPECT_EQ(cut.n_leaves, std::min(16, n_units));
    std::vector<IndexRange> units;
    for (int leaf = 0; leaf < cut.n_leaves; ++leaf) {
      units.push_back(cut.units(leaf));
      EXPECT_EQ(units.back().begin, leaf * n_units / cut.n_leaves);
      EXPECT_GE(units.back().size(), 1);
    }
    expect_tiled(units, n_units);
  }
}

TEST(Partition, LastMlpUnitMayBeNarrower) {
  const ModelConfig config = config_of(8, 4, 200, 4, 320);
  const ModelCuts cuts = model_cuts(config);
  EXPECT_EQ(cuts.mlp.n_leaves, 7);
  EXPECT_EQ(mlp_columns(config, cuts, 0), (IndexRange{0, 32}));
  EXPECT_EQ(mlp_columns(config, cuts, 6), (IndexRange{192, 200}));
}

TEST(Partition, UnevenExample) {
  const ModelConfig config = config_of(6, 3, 200, 5, 1100);
  const ShardPlan plan = plan_of(config, {4, 3}, 6);  // stage 1, shard 2
  EXPECT_EQ(plan.layers, (IndexRange{2, 4}));
  EXPECT_EQ(plan.heads, (IndexRange{3, 4}));
  EXPECT_EQ(plan.kv_heads, (IndexRange{1, 2}));
  EXPECT_EQ(plan.mlp_leaves, (IndexRange{3, 5}));
  EXPECT_EQ(plan.mlp_columns, (IndexRange{96, 160}));
  EXPECT_FALSE(plan.is_first_stage());
  EXPECT_FALSE(plan.is_last_stage());
}

TEST(Partition, ARankMayOwnNoVocabulary) {
  const ModelConfig config = config_of(8, 4, 512, 1, 320);
  EXPECT_EQ(plan_of(config, {3, 1}, 0).vocab.size(), 0);
  EXPECT_EQ(plan_of(config, {3, 1}, 1).vocab.size(), 0);
  EXPECT_EQ(plan_of(config, {3, 1}, 2).vocab, (IndexRange{0, 320}));
}

TEST(Partition, KvHeadsOfNoHeadsAreNone) {
  EXPECT_EQ(kv_heads_of(config_of(8, 4, 512, 1, 320), {3, 3}).size(), 0);
}

TEST(Partition, ALayoutThatDoesNotFitSaysWhatWould) {
  const ModelConfig config = config_of(8, 4, 160, 4, 320);
  for (const int tp : {-1, 0, 6, 1'000'000'000}) {
    const auto plan = make_shard_plan(config, {tp, 1}, 0);
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(plan.error().param, "tp");
    EXPECT_THAT(plan.error().message, HasSubstr(std::to_string(tp)));
    EXPECT_THAT(plan.error().message, HasSubstr("--tp 1 to 5"));
  }
  for (const int pp : {-1, 0, 5, 1'000'000'000}) {
    const auto plan = make_shard_plan(config, {5, pp}, 0);
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(plan.error().param, "pp");
    EXPECT_THAT(plan.error().message, HasSubstr(std::to_string(pp)));
    EXPECT_THAT(plan.error().message, HasSubstr("--pp 1 to 4"));
  }
}

}  // namespace
}  // namespace trireme
