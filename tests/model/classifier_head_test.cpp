#include "model/classifier_head.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/model_folder.h"
#include "model/source_model.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using testing::environment_error;
using ::testing::HasSubstr;
using testing::TempFolder;
using testing::TestTensor;

// A decoder of 48 hidden numbers with a head of three labels.
void write_classifier(const std::filesystem::path& folder, const std::string& dtype = "BF16") {
  nlohmann::json config = testing::small_config("Qwen2ForSequenceClassification");
  config["id2label"] = {{"0", "yes"}, {"2", "no"}};
  testing::TestTensors tensors = testing::write_model(folder, config, dtype);
  TestTensor head{{3, 48}, std::vector<float>(3 * 48)};
  head.values[0] = 1.5F;
  head.values[48 + 1] = -0.25F;
  tensors["score.weight"] = head;
  testing::write_file(folder / "model.safetensors", testing::safetensors_bytes(tensors, dtype));
}

TEST(ClassifierHead, IsReadFromTheModelsFolder) {
  for (const char* dtype : {"F32", "F16", "BF16"}) {
    const TempFolder folder;
    write_classifier(folder.path(), dtype);
    const auto head = load_classifier_head({.folder = folder.path(), .packed = {}});
    ASSERT_NE(head, nullptr);
    EXPECT_THAT(head->labels, ElementsAre("yes", "LABEL_1", "no"));
    ASSERT_EQ(head->weight.size(), 3U * 48);
    EXPECT_EQ(head->weight[0], 1.5F);
    EXPECT_EQ(head->weight[49], -0.25F);
  }
}

// Its decoder is one like any other, with what is there in place of the lm_head that is not.
TEST(ClassifierHead, LeavesTheDecoder) {
  const TempFolder folder;
  write_classifier(folder.path());
  const ModelConfig config = read_model_config(folder.path());
  EXPECT_EQ(config.architecture, "Qwen2ForCausalLM");
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(has_lm_head({.folder = folder.path(), .packed = {}}, config));
}

// As models made for embeddings are stored: without "model." before the names, and without lm_head.
TEST(BareDecoder, IsReadAsOneWhoseLmHeadNobodyAsksFor) {
  for (const char* architecture : {"Qwen3Model", "Qwen3ForCausalLM"}) {
    const TempFolder whole;
    const TempFolder bare;
    testing::TestTensors tensors =
        testing::write_model(whole.path(), testing::small_config("Qwen3ForCausalLM"));
    testing::TestTensors renamed;
    for (const auto& [name, tensor] : tensors)
      if (name.starts_with("model.")) renamed[name.substr(6)] = tensor;
    testing::write_file(bare / "config.json", testing::small_config(architecture).dump());
    testing::write_file(bare / "model.safetensors", testing::safetensors_bytes(renamed, "BF16"));

    const ModelConfig config = read_model_config(bare.path());
    EXPECT_TRUE(config.tie_embeddings);
    EXPECT_EQ(config.architecture, "Qwen3ForCausalLM");
    EXPECT_FALSE(has_lm_head({.folder = bare.path(), .packed = {}}, config));
    const SourceModel source(bare.path());
    source.check(find_architecture(config.architecture)->weights(config));
    EXPECT_NE(source.find("model.layers.2.mlp.down_proj.weight"), nullptr);
    EXPECT_EQ(source.find("layers.2.mlp.down_proj.weight"), nullptr);
  }
  const TempFolder plain;
  testing::write_model(plain.path(), testing::small_config("Qwen3ForCausalLM"));
  const ModelConfig config = read_model_config(plain.path());
  EXPECT_FALSE(config.tie_embeddings);
  EXPECT_TRUE(has_lm_head({.folder = plain.path(), .packed = {}}, config));
}

TEST(ClassifierHead, OtherModelsHaveNone) {
  const TempFolder folder;
  EXPECT_EQ(load_classifier_head({.folder = folder.path(), .packed = {}}), nullptr);
  testing::write_model(folder.path(), testing::small_config("LlamaForCausalLM"));
  EXPECT_EQ(load_classifier_head({.folder = folder.path(), .packed = {}}), nullptr);
  EXPECT_EQ(find_classifier_base("BertForSequenceClassification"), nullptr);
  EXPECT_THAT(classifier_architectures(), HasSubstr("LlamaForSequenceClassification, Mistral"));
}

TEST(ClassifierHead, WhatIsWrongIsNamed) {
  const TempFolder folder;
  write_classifier(folder.path());
  EXPECT_THAT(environment_error([&] {
                load_classifier_head({.folder = folder.path(), .packed = folder / "w.trireme"});
              }),
              HasSubstr("a packed model has no classification head"));
  // Another width than config.json says.
  nlohmann::json config = testing::small_config("Qwen2ForSequenceClassification");
  config["hidden_size"] = 96;
  testing::write_file(folder / "config.json", config.dump());
  const auto load = [&] { load_classifier_head({.folder = folder.path(), .packed = {}}); };
  EXPECT_THAT(environment_error(load), HasSubstr("\"score.weight\" of shape [labels, 96]"));
  testing::write_model(folder.path(), testing::small_config("Qwen2ForSequenceClassification"));
  EXPECT_THAT(environment_error(load), HasSubstr("is in no file"));
}

TEST(ClassifierHead, Probabilities) {
  const std::vector<float> hidden = {1.0F, 2.0F};
  const ClassifierHead two{.labels = {"a", "b"}, .weight = {1.0F, 0.0F, 0.0F, 1.0F}};
  const float second = 1.0F / (1.0F + std::exp(-1.0F));
  EXPECT_THAT(two.probabilities(hidden),
              ElementsAre(::testing::FloatEq(1.0F - second), ::testing::FloatEq(second)));
  const ClassifierHead one{.labels = {"a"}, .weight = {1.0F, 0.0F}};
  EXPECT_THAT(one.probabilities(hidden), ElementsAre(::testing::FloatEq(second)))
      << "the sigmoid of 1";
  // Scores that exp alone could not take.
  const ClassifierHead far{.labels = {"a", "b"}, .weight = {2000.0F, 0.0F, -2000.0F, 0.0F}};
  EXPECT_THAT(far.probabilities(hidden), ElementsAre(1.0F, 0.0F));
}

}  // namespace
}  // namespace trireme
