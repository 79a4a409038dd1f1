#include "model/source_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/model_folder.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using testing::environment_error;
using ::testing::HasSubstr;
using testing::TestTensor;
using testing::TestTensors;
using testing::write_file;

class SourceModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    weights_ = testing::write_model(folder_.path(), testing::small_config("Qwen2ForCausalLM"));
  }
  void write(const TestTensors& tensors, const char* name = "model.safetensors") {
    write_file(folder_.path() / name, testing::safetensors_bytes(tensors, "BF16"));
  }
  std::string error() const {
    return environment_error([this] {
      const ModelConfig config = read_model_config(folder_.path());
      const auto specs = find_architecture(config.architecture)->weights(config);
      SourceModel(folder_.path()).check(specs);
    });
  }
  testing::TempFolder folder_;
  TestTensors weights_;
};

TEST_F(SourceModelTest, AWholeModelPasses) { EXPECT_EQ(error(), ""); }

TEST_F(SourceModelTest, MissingTensors) {
  for (const auto& [name, tensor] : weights_) {
    TestTensors fewer = weights_;
    fewer.erase(name);
    write(fewer);
    EXPECT_THAT(error(), AllOf(HasSubstr("\"" + name + "\""), HasSubstr("is in no file")));
  }
}

TEST_F(SourceModelTest, AConfigThatLiesAboutShapes) {
  Json config = testing::small_config("Qwen2ForCausalLM");
  config["intermediate_size"] = 192;
  write_file(folder_.path() / "config.json", config.dump());
  EXPECT_THAT(error(),
              AllOf(HasSubstr("model.safetensors: at byte "), HasSubstr("mlp.gate_proj.weight"),
                    HasSubstr("shape [200, 48]"), HasSubstr("asks for [192, 48]")));
}

TEST_F(SourceModelTest, ATransposedTensor) {
  weights_["model.layers.1.mlp.down_proj.weight"].shape = {200, 48};
  write(weights_);
  EXPECT_THAT(error(), HasSubstr("shape [200, 48], but config.json asks for [48, 200]"));
}

TEST_F(SourceModelTest, WeightsThatWouldBeIgnored) {
  for (const char* name :
       {"model.layers.0.self_attn.o_proj.bias", "lm_head.bias",
        "model.layers.3.input_layernorm.weight", "model.layers.0.mlp.gate.weight"}) {
    TestTensors more = weights_;
    more[name] = TestTensor{{2}, {0, 1}};
    write(more);
    EXPECT_THAT(error(), AllOf(HasSubstr(name), HasSubstr("has no use for it")));
  }
}

TEST_F(SourceModelTest, HarmlessExtras) {
  weights_["model.layers.0.self_attn.rotary_emb.inv_freq"] = TestTensor{{2}, {0, 1}};
  weights_["vision.patch"] = TestTensor{{2}, {0, 1}};
  write(weights_);
  EXPECT_EQ(error(), "");
}

TEST_F(SourceModelTest, TheHeadOfATiedModelIsIgnored) {
  Json config = testing::small_config("Qwen2ForCausalLM");
  config["tie_word_embeddings"] = true;
  write_file(folder_.path() / "config.json", config.dump());
  EXPECT_EQ(error(), "");
}

TEST_F(SourceModelTest, TypesThatAreNotRead) {
  std::string bytes = testing::safetensors_bytes(weights_, "F16");
  for (size_t at = bytes.find("\"F16\""); at != std::string::npos; at = bytes.find("\"F16\"")) {
    bytes.replace(at, 5, "\"I16\"");
  }
  write_file(folder_.path() / "model.safetensors", bytes);
  EXPECT_THAT(error(), AllOf(HasSubstr("dtype I16"), HasSubstr("F32, F16 and BF16")));
}

class ShardedModelTest : public SourceModelTest {
 protected:
  void SetUp() override {
    SourceModelTest::SetUp();
    std::filesystem::remove(folder_.path() / "model.safetensors");
    TestTensors parts[2];
    for (const auto& [name, tensor] : weights_) {
      const size_t part = map_.size() % 2;
      parts[part][name] = tensor;
      map_[name] = part == 0 ? "a.safetensors" : "b.safetensors";
    }
    write(parts[0], "a.safetensors");
    write(parts[1], "b.safetensors");
    write_index();
  }
  void write_index() {
    write_file(folder_.path() / "model.safetensors.index.json", Json{{"weight_map", map_}}.dump());
  }
  Json map_ = Json::object();
};

TEST_F(ShardedModelTest, IsReadThroughItsIndex) {
  EXPECT_EQ(error(), "");
  EXPECT_EQ(SourceModel::weight_files(folder_.path()).size(), 3U);
}

TEST_F(ShardedModelTest, AFileThatIsNotThere) {
  std::filesystem::remove(folder_.path() / "b.safetensors");
  EXPECT_THAT(error(), HasSubstr("b.safetensors: cannot be opened"));
}

TEST_F(ShardedModelTest, ATensorThatIsElsewhere) {
  map_["model.norm.weight"] =
      map_["model.norm.weight"] == "a.safetensors" ? "b.safetensors" : "a.safetensors";
  write_index();
  EXPECT_THAT(error(), AllOf(HasSubstr("\"model.norm.weight\""), HasSubstr("is not in it")));
}

TEST_F(ShardedModelTest, AnIndexThatLeavesTheFolder) {
  for (const char* name : {"../a.safetensors", "/etc/passwd", "a.bin", ""}) {
    map_["model.norm.weight"] = name;
    write_index();
    EXPECT_THAT(error(), HasSubstr("\"weight_map.model.norm.weight\""));
  }
}

TEST_F(ShardedModelTest, AnIndexWithoutAMap) {
  for (const char* text : {"{}", "{\"weight_map\": 3}", "{\"weight_map\": {}}", "[1]"}) {
    write_file(folder_.path() / "model.safetensors.index.json", text);
    EXPECT_THAT(error(), HasSubstr("model.safetensors.index.json"));
  }
}

TEST_F(ShardedModelTest, NoWeightsAtAll) {
  std::filesystem::remove(folder_.path() / "model.safetensors.index.json");
  EXPECT_THAT(error(), HasSubstr("holds neither model.safetensors nor"));
}

}  // namespace
}  // namespace trireme
