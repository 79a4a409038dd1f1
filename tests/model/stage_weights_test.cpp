#include "model/stage_weights.h"

#include <gtest/gtest.h>

#include "kernels/bf16.h"
#include "model/packed_layout.h"
#include "model/packed_model.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using testing::TestTensor;
using testing::TestTensors;

constexpr int kHeadDim = 8;

float element(const WeightBlock& block, int64_t n, int64_t k) {
  const int64_t panel = n / 16 * k_padded(WeightFormat::kBF16, block.k) * 16;
  const int64_t at = panel + (k / 2 * 16 + n % 16) * 2 + k % 2;
  return to_float(static_cast<const BF16*>(block.data)[at]);
}

// The rank's matrix [columns, inputs] is that part of the whole one. Row-parallel blocks share the
// columns and split the inputs; the others split the columns.
void expect_part(const Weight& weight, bool splits_inputs, const TestTensor& whole,
                 IndexRange columns, IndexRange inputs, const TestTensor* bias = nullptr) {
  EXPECT_EQ(weight.n_out, columns.size());
  EXPECT_EQ(weight.k_in, inputs.size());
  int64_t n_covered = 0;
  int64_t k_begin = 0;  // of the block in the rank's inputs
  for (const WeightBlock& block : weight.blocks) {
    if (splits_inputs) {
      EXPECT_EQ(block.out_begin, 0);
    }
    for (int64_t n = 0; n < block.n; ++n) {
      const int64_t column = columns.begin + block.out_begin + n;
      for (int64_t k = 0; k < block.k; ++k) {
        const int64_t input = inputs.begin + k_begin + k;
        const auto at = static_cast<size_t>(column * whole.shape[1] + input);
        ASSERT_EQ(element(block, n, k), whole.values[at]);
      }
      ASSERT_EQ(block.bias != nullptr, bias != nullptr);
      if (bias != nullptr) {
        ASSERT_EQ(block.bias[n], bias->values[static_cast<size_t>(column)]);
      }
    }
    n_covered += static_cast<int64_t>(block.n) * block.k;
    if (splits_inputs) k_begin += block.k;
  }
  EXPECT_EQ(n_covered, static_cast<int64_t>(columns.size()) * inputs.size());
}

void expect_vector(const float* data, const TestTensor& whole) {
  ASSERT_NE(data, nullptr);
  for (size_t i = 0; i < whole.values.size(); ++i) ASSERT_EQ(data[i], whole.values[i]);
}

IndexRange times(IndexRange range, int32_t n) { return {range.begin * n, range.end * n}; }

void expect_layer(const LayerWeights& w, const ShardPlan& shard, const ModelConfig& config,
                  const TestTensors& weights, int32_t layer) {
  const auto get = [&](const std::string& name) -> const TestTensor& {
    return weights.at("model.layers." + std::to_string(layer) + "." + name);
  };
  const IndexRange hidden = {0, config.hidden_size};
  const IndexRange q = times(shard.heads, kHeadDim);
  const IndexRange kv = times(shard.kv_heads, kHeadDim);
  const auto bias = [&](const char* module) { return &get(std::string(module) + ".bias"); };
  expect_part(w.q, false, get("self_attn.q_proj.weight"), q, hidden, bias("self_attn.q_proj"));
  expect_part(w.k, false, get("self_attn.k_proj.weight"), kv, hidden, bias("self_attn.k_proj"));
  expect_part(w.v, false, get("self_attn.v_proj.weight"), kv, hidden, bias("self_attn.v_proj"));
  expect_part(w.o, true, get("self_attn.o_proj.weight"), hidden, q);
  expect_part(w.gate, false, get("mlp.gate_proj.weight"), shard.mlp_columns, hidden,
              bias("mlp.gate_proj"));
  expect_part(w.up, false, get("mlp.up_proj.weight"), shard.mlp_columns, hidden,
              bias("mlp.up_proj"));
  expect_part(w.down, true, get("mlp.down_proj.weight"), hidden, shard.mlp_columns);
  expect_vector(w.input_norm, get("input_layernorm.weight"));
  expect_vector(w.post_norm, get("post_attention_layernorm.weight"));
  expect_vector(w.o_bias, get("self_attn.o_proj.bias"));
  expect_vector(w.down_bias, get("mlp.down_proj.bias"));
  EXPECT_EQ(w.q_norm, nullptr);
  EXPECT_EQ(w.k_norm, nullptr);
}

void expect_every_rank_maps_its_part(bool tied) {
  const testing::TempFolder folder;
  auto config_json = testing::small_config("LlamaForCausalLM");
  config_json["attention_bias"] = true;
  config_json["mlp_bias"] = true;
  config_json["tie_word_embeddings"] = tied;
  const TestTensors weights = testing::write_model(folder.path(), config_json);
  pack_model(folder.path(), folder.path() / "packed", WeightFormat::kBF16, {});
  const auto file = PackedModel::open(folder.path() / "packed");
  const ModelConfig& config = file->config();
  const PackedLayout packed = plan_packed_layout(config, WeightFormat::kBF16);
  const TestTensor& embedding = weights.at("model.embed_tokens.weight");
  const TestTensor& head = tied ? embedding : weights.at("lm_head.weight");
  const IndexRange hidden = {0, config.hidden_size};
  for (int tp = 1; tp <= 6; ++tp) {
    for (int pp = 1; pp <= 3; ++pp) {
      for (int rank = 0; rank < tp * pp; ++rank) {
        SCOPED_TRACE(::testing::Message() << tp << "x" << pp << " rank " << rank);
        const ShardPlan shard = *make_shard_plan(config, {tp, pp}, rank);
        uint64_t last = 0;
        uint64_t total = 0;
        const StageWeights got = map_stage_weights(file, shard, [&](uint64_t done, uint64_t all) {
          last = done;
          total = all;
        });
        EXPECT_EQ(last, total);
        EXPECT_EQ(got.size_bytes, total);
        EXPECT_EQ(got.size_bytes, shard_weight_bytes(packed, shard, tied));
        ASSERT_EQ(got.layers.size(), static_cast<size_t>(shard.layers.size()));
        for (int32_t i = 0; i < shard.layers.size(); ++i) {
          expect_layer(got.layers[static_cast<size_t>(i)], shard, config, weights,
                       shard.layers.begin + i);
        }
        if (shard.is_first_stage()) {
          expect_part(got.embedding, false, embedding, shard.vocab, hidden);
        }
        if (shard.is_last_stage()) {
          expect_part(got.lm_head, false, head, shard.vocab, hidden);
          expect_vector(got.final_norm, weights.at("model.norm.weight"));
        } else {
          EXPECT_EQ(got.final_norm, nullptr);
        }
      }
    }
  }
}

TEST(StageWeights, EveryRankMapsItsPart) { expect_every_rank_maps_its_part(false); }
TEST(StageWeights, EveryRankMapsItsPartOfATiedModel) { expect_every_rank_maps_its_part(true); }

TEST(StageWeights, NormsOfQueriesAndKeys) {
  const testing::TempFolder folder;
  const TestTensors weights =
      testing::write_model(folder.path(), testing::small_config("Qwen3ForCausalLM"));
  pack_model(folder.path(), folder.path() / "packed", WeightFormat::kF32, {});
  const auto file = PackedModel::open(folder.path() / "packed");
  const StageWeights got = map_stage_weights(file, *make_shard_plan(file->config(), {2, 1}, 1), {});
  for (size_t i = 0; i < got.layers.size(); ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".self_attn.";
    expect_vector(got.layers[i].q_norm, weights.at(layer + "q_norm.weight"));
    expect_vector(got.layers[i].k_norm, weights.at(layer + "k_norm.weight"));
    EXPECT_EQ(got.layers[i].q.format(), WeightFormat::kF32);
    EXPECT_EQ(got.layers[i].o_bias, nullptr);
  }
}

}  // namespace
}  // namespace trireme
