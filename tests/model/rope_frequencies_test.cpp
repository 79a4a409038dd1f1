#include "model/rope_frequencies.h"

#include <cmath>
#include <filesystem>

#include <gtest/gtest.h>

#include "model/model_folder.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

const char* const kFixtures = TRIREME_SOURCE_DIR "/tests/data/rope/rope_frequencies.json";

ModelConfig config_of(const Json& row, const char* rope_key) {
  const testing::TempFolder folder;
  Json config = testing::small_config("LlamaForCausalLM");
  config["head_dim"] = row["head_dim"];
  config["max_position_embeddings"] = row["max_position_embeddings"];
  config[rope_key] = row["rope_parameters"];
  testing::write_file(folder.path() / "config.json", config.dump());
  return read_model_config(folder.path());
}

// transformers computes in float32, so it is a few units in the last place away.
void expect_close(float actual, double expected) {
  EXPECT_NEAR(actual, expected, 2e-6 * std::abs(expected));
}

TEST(RopeFrequencies, AreThoseOfTransformers) {
  const Json rows = Json::parse(testing::read_file(kFixtures));
  ASSERT_GE(rows.size(), 16U);
  for (const Json& row : rows) {
    for (const char* key : {"rope_parameters", "rope_scaling"}) {
      SCOPED_TRACE(row["name"].get<std::string>() + " as " + key);
      const RopeFrequencies got =
          rope_frequencies(config_of(row, key), row["context_length"].get<int32_t>());
      ASSERT_EQ(got.inv_freq.size(), row["inv_freq"].size());
      for (size_t i = 0; i < got.inv_freq.size(); ++i) {
        SCOPED_TRACE(i);
        expect_close(got.inv_freq[i], row["inv_freq"][i].get<double>());
      }
      expect_close(got.scale, row["scale"].get<double>());
    }
  }
}

TEST(RopeFrequencies, DynamicIsPlainUpToTheTrainedLengthAndFixedAbove) {
  ModelConfig plain;
  plain.head_dim = 64;
  plain.max_position = 2048;
  ModelConfig dynamic = plain;
  dynamic.rope.scaling = RopeConfig::Scaling::kDynamic;
  dynamic.rope.factor = 4.0;
  dynamic.rope.original_max_position = 2048;
  EXPECT_EQ(rope_frequencies(dynamic, 1).inv_freq, rope_frequencies(plain, 1).inv_freq);
  EXPECT_EQ(rope_frequencies(dynamic, 2048).inv_freq, rope_frequencies(plain, 1).inv_freq);
  EXPECT_NE(rope_frequencies(dynamic, 2049).inv_freq, rope_frequencies(plain, 1).inv_freq);
  EXPECT_EQ(default_context_length(plain), 2048);
  EXPECT_EQ(default_context_length(dynamic), 8192);
}

}  // namespace
}  // namespace trireme
