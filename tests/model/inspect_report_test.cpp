#include "model/inspect_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/packed_header.h"
#include "model/packed_model.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using Json = nlohmann::json;
using testing::environment_error;
using ::testing::HasSubstr;

class InspectReportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_model(folder_.path(), testing::small_config("LlamaForCausalLM"));
  }
  testing::TempFolder folder_;
};

TEST_F(InspectReportTest, CountsAndPlan) {
  const auto report = inspect_model(folder_.path(), {.layout = {2, 2}, .n_sequences = 3});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->n_source_tensors, 3U + 3U * 9U);
  const uint64_t per_layer = 2 * 48 + 2 * 48 * 48 + 2 * 24 * 48 + 3 * 200 * 48;
  EXPECT_EQ(report->n_parameters, 2 * 1100 * 48 + 48 + 3 * per_layer);
  EXPECT_EQ(report->source_bytes, 2 * report->n_parameters);
  EXPECT_EQ(report->packed_bytes, packed_file_bytes(report->config, WeightFormat::kBF16));
  EXPECT_EQ(report->options.context_length, 256);
  ASSERT_EQ(report->ranks.size(), 4U);
  // 3 sequences of 16 blocks, two layers, two of the three KV heads (heads 0-2), K and V in bf16.
  EXPECT_EQ(report->ranks[0].kv_bytes, 2U * 3U * 256U * 2U * 8U * 2U * 2U);
  EXPECT_EQ(report->ranks[3].world_rank, 3);
  // In int8, 8 bytes and a scale of 4 for each token and head.
  const auto int8 =
      inspect_model(folder_.path(), {.layout = {2, 2}, .kv_dtype = DType::kI8, .n_sequences = 3});
  ASSERT_TRUE(int8.ok());
  EXPECT_EQ(int8->ranks[0].kv_bytes, 2U * 3U * 256U * 2U * (8U + 4U) * 2U);
  uint64_t weights = 0;
  for (const RankReport& rank : report->ranks) {
    EXPECT_GT(rank.workspace_bytes, 0U);
    weights += rank.weight_bytes;
  }
  EXPECT_GE(weights, 2 * report->n_parameters);  // and what is held twice
}

TEST_F(InspectReportTest, Text) {
  const std::string text =
      inspect_text(*inspect_model(folder_.path(), {.layout = {2, 2}, .context_length = 100}));
  for (const char* part : {"LlamaForCausalLM", "leaves            attention 6, MLP 7",
                           "2 of 1024 columns", "largest --tp      6", "largest --pp      3",
                           "shard plan for --tp 2 --pp 2", "1 x 100 tokens", "1024-1099"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST_F(InspectReportTest, JsonIsWellFormed) {
  const Json json = Json::parse(inspect_json(*inspect_model(folder_.path(), {.layout = {3, 1}})));
  EXPECT_EQ(json["largest_tp"], 6);
  EXPECT_EQ(json["plan"]["ranks"].size(), 3U);
  EXPECT_EQ(json["plan"]["ranks"][2]["heads"], Json({4, 6}));
  EXPECT_EQ(json["plan"]["ranks"][2]["vocab"], Json({1024, 1100}));
}

TEST_F(InspectReportTest, OptionsThatDoNotFit) {
  const auto tp = inspect_model(folder_.path(), {.layout = {7, 1}});
  ASSERT_FALSE(tp.ok());
  EXPECT_THAT(tp.error().message, HasSubstr("--tp 1 to 6"));
  EXPECT_FALSE(inspect_model(folder_.path(), {.layout = {0, 1}}).ok());
  EXPECT_FALSE(inspect_model(folder_.path(), {.layout = {1 << 30, 1 << 30}}).ok());
  EXPECT_FALSE(inspect_model(folder_.path(), {.context_length = -1}).ok());
  EXPECT_FALSE(inspect_model(folder_.path(), {.context_length = 2147483647}).ok());
  EXPECT_FALSE(inspect_model(folder_.path(), {.n_sequences = 0}).ok());
  EXPECT_FALSE(inspect_model(folder_.path(), {.max_step_tokens = 0}).ok());
}

TEST_F(InspectReportTest, APackedModelIsWhatItIs) {
  const auto path = folder_.path() / "x.trireme";
  pack_model(folder_.path(), path, WeightFormat::kI4, {});
  const auto report = inspect_model(path, {.layout = {2, 2}});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->options.format, WeightFormat::kI4);
  EXPECT_EQ(report->packed_bytes, std::filesystem::file_size(path));
  EXPECT_EQ(report->n_source_tensors, 3U + 3U * 9U);
  const auto source =
      inspect_model(folder_.path(), {.layout = {2, 2}, .format = WeightFormat::kI4});
  EXPECT_EQ(report->packed_bytes, source->packed_bytes);
  EXPECT_EQ(report->n_parameters, source->n_parameters);
  EXPECT_EQ(report->ranks[1].weight_bytes, source->ranks[1].weight_bytes);
}

TEST_F(InspectReportTest, AFolderThatIsWrong) {
  std::filesystem::remove(folder_.path() / "model.safetensors");
  EXPECT_THAT(environment_error([this] { (void)inspect_model(folder_.path(), {}); }),
              HasSubstr("holds neither"));
}

}  // namespace
}  // namespace trireme
