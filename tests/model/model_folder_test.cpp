#include "model/model_folder.h"

#include <cmath>
#include <cstdlib>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/arch_spec.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using Json = nlohmann::json;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::environment_error;
using ::testing::HasSubstr;
using testing::small_config;
using testing::TempFolder;
using testing::write_file;
using Scaling = RopeConfig::Scaling;

constexpr const char* kLlama = "LlamaForCausalLM";
constexpr const char* kMistral = "MistralForCausalLM";
constexpr const char* kQwen2 = "Qwen2ForCausalLM";
constexpr const char* kQwen3 = "Qwen3ForCausalLM";

ModelConfig parse_text(const std::string& text) {
  const TempFolder folder;
  write_file(folder.path() / "config.json", text);
  return read_model_config(folder.path());
}
ModelConfig parse(const Json& config) { return parse_text(config.dump()); }

Json with(Json config, const Json& changes) {
  config.merge_patch(changes);  // a null in `changes` removes the field
  return config;
}

TEST(ModelFolder, CommonFields) {
  const ModelConfig c = parse(small_config(kLlama));
  EXPECT_EQ(c.architecture, kLlama);
  EXPECT_EQ(c.hidden_size, 48);
  EXPECT_EQ(c.intermediate_size, 200);
  EXPECT_EQ(c.n_layers, 3);
  EXPECT_EQ(c.n_heads, 6);
  EXPECT_EQ(c.n_kv_heads, 3);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.vocab_size, 1100);
  EXPECT_EQ(c.max_position, 256);
  EXPECT_EQ(c.rms_norm_eps, 1e-5F);
  EXPECT_EQ(c.attention_scale, static_cast<float>(1.0 / std::sqrt(8.0)));
  EXPECT_FALSE(c.tie_embeddings || c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm);
  EXPECT_THAT(c.layer_window, ElementsAre(0, 0, 0));
  EXPECT_EQ(c.rope.scaling, Scaling::kNone);
  EXPECT_EQ(c.rope.theta, 10000.0);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(2));
  EXPECT_EQ(c.bos_token_id, -1);
  EXPECT_EQ(config_fault(c), "");
}

TEST(ModelFolder, ArchitectureFromModelTypeWhereNoneIsNamed) {
  Json config = small_config(kQwen3);
  config.erase("architectures");
  config["model_type"] = "qwen3";
  EXPECT_EQ(parse(config).architecture, kQwen3);
}

TEST(ModelFolder, AbsentFieldsMeanWhatTheArchitectureSays) {
  const auto without = [](const char* arch, std::initializer_list<const char*> names) {
    Json config = small_config(arch);
    config["num_attention_heads"] = 64;
    config["num_key_value_heads"] = 64;
    config["hidden_size"] = 512;
    for (const char* name : names) config.erase(name);
    return parse(config);
  };
  EXPECT_EQ(without(kLlama, {"num_key_value_heads"}).n_kv_heads, 64);
  EXPECT_EQ(without(kMistral, {"num_key_value_heads"}).n_kv_heads, 8);
  EXPECT_EQ(without(kQwen2, {"num_key_value_heads"}).n_kv_heads, 32);
  EXPECT_EQ(without(kLlama, {"head_dim"}).head_dim, 8);
  EXPECT_EQ(without(kQwen2, {"head_dim"}).head_dim, 8);
  EXPECT_EQ(without(kQwen3, {"head_dim"}).head_dim, 128);
  EXPECT_EQ(without(kLlama, {"max_position_embeddings"}).max_position, 2048);
  EXPECT_EQ(without(kMistral, {"max_position_embeddings"}).max_position, 131072);
  EXPECT_EQ(without(kQwen2, {"max_position_embeddings"}).max_position, 32768);
  EXPECT_EQ(without(kLlama, {"rms_norm_eps"}).rms_norm_eps, 1e-6F);
}

TEST(ModelFolder, NullHeadFields) {
  Json config = small_config(kQwen3);
  config["head_dim"] = nullptr;
  config["num_key_value_heads"] = nullptr;
  const ModelConfig c = parse(config);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.n_kv_heads, 6);
}

TEST(ModelFolder, Biases) {
  const ModelConfig llama = parse(with(small_config(kLlama), {{"attention_bias", true}}));
  EXPECT_TRUE(llama.qkv_bias && llama.o_bias);
  EXPECT_FALSE(llama.mlp_bias);
  EXPECT_TRUE(parse(with(small_config(kLlama), {{"mlp_bias", true}})).mlp_bias);
  const ModelConfig qwen2 = parse(small_config(kQwen2));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias || qwen2.mlp_bias || qwen2.qk_norm);
  const ModelConfig qwen3 = parse(with(small_config(kQwen3), {{"attention_bias", true}}));
  EXPECT_TRUE(qwen3.qkv_bias && qwen3.o_bias && qwen3.qk_norm);
  EXPECT_FALSE(parse(small_config(kQwen3)).qkv_bias);
  const ModelConfig mistral = parse(with(small_config(kMistral), {{"attention_bias", true}}));
  EXPECT_FALSE(mistral.qkv_bias || mistral.o_bias);
}

TEST(ModelFolder, MistralWindow) {
  EXPECT_THAT(parse(small_config(kMistral)).layer_window, Each(0));
  EXPECT_THAT(parse(with(small_config(kMistral), {{"sliding_window", 16}})).layer_window, Each(16));
  Json absent = small_config(kMistral);
  absent.erase("sliding_window");
  EXPECT_THAT(parse(absent).layer_window, Each(4096));
}

TEST(ModelFolder, LlamaHasNoWindow) {
  EXPECT_THAT(parse(with(small_config(kLlama), {{"sliding_window", 16}})).layer_window, Each(0));
}

TEST(ModelFolder, QwenWindows) {
  const Json base = with(small_config(kQwen2), {{"sliding_window", 16}, {"max_window_layers", 1}});
  EXPECT_THAT(parse(base).layer_window, ElementsAre(0, 0, 0));
  const Json used = with(base, {{"use_sliding_window", true}});
  EXPECT_THAT(parse(used).layer_window, ElementsAre(0, 16, 16));
  const Json types =
      with(used, {{"layer_types", {"sliding_attention", "full_attention", "sliding_attention"}}});
  EXPECT_THAT(parse(types).layer_window, ElementsAre(16, 0, 16));
  Json many = used;
  many.erase("max_window_layers");  // 28
  EXPECT_THAT(parse(many).layer_window, ElementsAre(0, 0, 0));

  const Json no_window = with(types, {{"use_sliding_window", false}});
  EXPECT_THAT(environment_error([&] { parse(no_window); }), HasSubstr("layer_types"));
  const Json short_list = with(used, {{"layer_types", {"full_attention"}}});
  EXPECT_THAT(environment_error([&] { parse(short_list); }), HasSubstr("3 layers, not 1"));
  const Json linear =
      with(used, {{"layer_types", {"full_attention", "full_attention", "linear_attention"}}});
  EXPECT_THAT(environment_error([&] { parse(linear); }), HasSubstr("layer_types"));
}

TEST(ModelFolder, RopeOfTransformers4) {
  const RopeConfig plain = parse(with(small_config(kLlama), {{"rope_theta", 5e5}})).rope;
  EXPECT_EQ(plain.scaling, Scaling::kNone);
  EXPECT_EQ(plain.theta, 5e5);
  for (const char* key : {"type", "rope_type"}) {
    const RopeConfig linear =
        parse(with(small_config(kLlama),
                   {{"rope_theta", 2e4}, {"rope_scaling", {{key, "linear"}, {"factor", 2}}}}))
            .rope;
    EXPECT_EQ(linear.scaling, Scaling::kLinear);
    EXPECT_EQ(linear.factor, 2.0);
    EXPECT_EQ(linear.theta, 2e4);
  }
}

TEST(ModelFolder, RopeOfTransformers5) {
  const Json rope = {{"rope_type", "llama3"},   {"rope_theta", 5e5},
                     {"factor", 8.0},           {"low_freq_factor", 1.5},
                     {"high_freq_factor", 4.5}, {"original_max_position_embeddings", 64}};
  const RopeConfig c =
      parse(with(small_config(kLlama), {{"rope_theta", 7.0}, {"rope_parameters", rope}})).rope;
  EXPECT_EQ(c.scaling, Scaling::kLlama3);
  EXPECT_EQ(c.theta, 5e5);
  EXPECT_EQ(c.factor, 8.0);
  EXPECT_EQ(c.low_freq_factor, 1.5);
  EXPECT_EQ(c.high_freq_factor, 4.5);
  EXPECT_EQ(c.original_max_position, 64);
}

TEST(ModelFolder, RopeScalingStandsAboveRopeParameters) {
  const Json linear = {{"rope_type", "linear"}, {"factor", 2.0}};
  const Json none = {{"rope_type", "default"}, {"rope_theta", 3e4}};
  Json config = with(small_config(kLlama), {{"rope_parameters", none}});
  config["rope_scaling"] = linear;
  EXPECT_EQ(parse(config).rope.scaling, Scaling::kLinear);
  config["rope_scaling"] = nullptr;
  EXPECT_EQ(parse(config).rope.theta, 3e4);
  config["rope_scaling"] = Json::object();
  EXPECT_EQ(parse(config).rope.theta, 3e4);
}

TEST(ModelFolder, DynamicRopeKnowsTheTrainedLength) {
  const Json rope = {{"type", "dynamic"}, {"factor", 4.0}, {"original_max_position_embeddings", 9}};
  const RopeConfig c = parse(with(small_config(kLlama), {{"rope_scaling", rope}})).rope;
  EXPECT_EQ(c.scaling, Scaling::kDynamic);
  EXPECT_EQ(c.original_max_position, 256);
}

TEST(ModelFolder, Yarn) {
  const Json rope = {{"type", "yarn"}, {"original_max_position_embeddings", 64}};
  const RopeConfig c = parse(with(small_config(kQwen2), {{"rope_scaling", rope}})).rope;
  EXPECT_EQ(c.scaling, Scaling::kYarn);
  EXPECT_EQ(c.factor, 4.0);  // max_position_embeddings / original
  EXPECT_EQ(c.beta_fast, 32.0);
  EXPECT_EQ(c.beta_slow, 1.0);
  EXPECT_EQ(c.attention_factor, 0.0);
  EXPECT_TRUE(c.truncate);

  const Json full = {
      {"type", "yarn"},           {"factor", 3.0}, {"beta_fast", 16},        {"beta_slow", 2},
      {"attention_factor", 1.25}, {"mscale", 0.5}, {"mscale_all_dim", 0.75}, {"truncate", false}};
  const RopeConfig d = parse(with(small_config(kQwen2), {{"rope_scaling", full},
                                                         {"original_max_position_embeddings", 32}}))
                           .rope;
  EXPECT_EQ(d.factor, 3.0);
  EXPECT_EQ(d.beta_fast, 16.0);
  EXPECT_EQ(d.beta_slow, 2.0);
  EXPECT_EQ(d.attention_factor, 1.25);
  EXPECT_EQ(d.mscale, 0.5);
  EXPECT_EQ(d.mscale_all_dim, 0.75);
  EXPECT_EQ(d.original_max_position, 32);
  EXPECT_FALSE(d.truncate);
}

TEST(ModelFolder, EndTokens) {
  const TempFolder folder;
  const auto read = [&] { return read_model_config(folder.path()); };
  write_file(folder.path() / "config.json",
             with(small_config(kLlama), {{"eos_token_id", {5, 7}}, {"bos_token_id", 1}}).dump());
  EXPECT_THAT(read().eos_token_ids, ElementsAre(5, 7));
  EXPECT_EQ(read().bos_token_id, 1);
  const auto generation = folder.path() / "generation_config.json";
  write_file(generation, R"({"eos_token_id": [9]})");
  EXPECT_THAT(read().eos_token_ids, ElementsAre(9));
  EXPECT_EQ(read().bos_token_id, 1);
  write_file(generation, R"({"eos_token_id": null, "bos_token_id": 3})");
  EXPECT_THAT(read().eos_token_ids, ElementsAre(5, 7));
  EXPECT_EQ(read().bos_token_id, 3);
  write_file(generation, R"({"eos_token_id": 1100})");
  EXPECT_THAT(environment_error(read), HasSubstr("generation_config.json"));
}

struct BadConfig {
  const char* field;  // that the message must name
  const char* also;   // and what else it must say
  std::function<void(Json&)> change;
};

TEST(ModelFolder, EachErrorNamesFileFieldAndMend) {
  const auto set = [](const char* name, Json value) {
    return [name, value](Json& config) { config[name] = value; };
  };
  const auto rope = [](Json value) {
    return [value](Json& config) { config["rope_scaling"] = value; };
  };
  const std::vector<BadConfig> bad = {
      {"architectures", "Qwen3ForCausalLM", set("architectures", {"GPT2LMHeadModel"})},
      {"architectures", "LlamaForCausalLM", set("architectures", Json::array())},
      {"architectures", "strings", set("architectures", {1})},
      {"hidden_size", "missing", [](Json& config) { config.erase("hidden_size"); }},
      {"hidden_size", "-3", set("hidden_size", -3)},
      {"hidden_size", "131072", set("hidden_size", 1 << 18)},
      {"hidden_size", "integer", set("hidden_size", "48")},
      {"hidden_size", "48.5", set("hidden_size", 48.5)},
      {"hidden_size", "18446744073709551615", set("hidden_size", ~0ULL)},
      {"hidden_size", "integer", set("hidden_size", 1e300)},
      {"intermediate_size", "0", set("intermediate_size", 0)},
      {"num_hidden_layers", "1000000000", set("num_hidden_layers", 1000000000)},
      {"num_attention_heads", "1024", set("num_attention_heads", 4096)},
      {"num_key_value_heads", "divide", set("num_key_value_heads", 4)},
      {"num_key_value_heads", "divide", set("num_key_value_heads", 12)},
      {"head_dim", "7", set("head_dim", 7)},
      {"head_dim", "2048", set("head_dim", 2048)},
      {"head_dim", "multiple",
       [](Json& config) { config.erase("head_dim"), config["hidden_size"] = 50; }},
      {"vocab_size", "4194304", set("vocab_size", 1LL << 31)},
      {"max_position_embeddings", "integer", set("max_position_embeddings", 1LL << 40)},
      {"rms_norm_eps", "number", set("rms_norm_eps", 0.0)},
      {"rms_norm_eps", "number", set("rms_norm_eps", "1e-5")},
      {"tie_word_embeddings", "true or false", set("tie_word_embeddings", 1)},
      {"attention_bias", "true or false", set("attention_bias", "yes")},
      {"hidden_act", "silu", set("hidden_act", "gelu")},
      {"quantization_config", "quantized", set("quantization_config", Json::object())},
      {"eos_token_id", "1100", set("eos_token_id", 1100)},
      {"eos_token_id", "-1", set("eos_token_id", -1)},
      {"eos_token_id", "64", set("eos_token_id", std::vector<int>(65, 1))},
      {"rope_theta", "number", set("rope_theta", 0.0)},
      {"partial_rotary_factor", "0.5", set("partial_rotary_factor", 0.5)},
      {"rope_scaling", "object", set("rope_scaling", 3)},
      {"rope_scaling.rope_type", "longrope", rope({{"rope_type", "longrope"}})},
      {"rope_scaling.type", "su", rope({{"type", "su"}})},
      {"rope_scaling.factor", "missing", rope({{"type", "linear"}})},
      {"rope_scaling.factor", "0.5", rope({{"type", "dynamic"}, {"factor", 0.5}})},
      {"rope_scaling.low_freq_factor", "missing", rope({{"type", "llama3"}, {"factor", 2}})},
      {"rope_scaling.high_freq_factor", "greater",
       rope({{"type", "llama3"}, {"factor", 2}, {"low_freq_factor", 4}, {"high_freq_factor", 4}})},
      {"rope_scaling.beta_fast", "beta_slow",
       rope({{"type", "yarn"}, {"factor", 2}, {"beta_fast", 1}, {"beta_slow", 2}})},
      {"rope_scaling.full_attention", "layer type",
       rope({{"full_attention", {{"rope_type", "default"}}}})},
  };
  for (const BadConfig& row : bad) {
    Json config = small_config(kLlama);
    row.change(config);
    const std::string error = environment_error([&] { parse(config); });
    SCOPED_TRACE(config.dump());
    EXPECT_THAT(error, HasSubstr("config.json"));
    EXPECT_THAT(error, HasSubstr(std::string("\"") + row.field + "\""));
    EXPECT_THAT(error, HasSubstr(row.also));
    EXPECT_THAT(error, HasSubstr("; correct the file"));
    EXPECT_EQ(error.find('\n'), std::string::npos);
  }
}

TEST(ModelFolder, TextThatIsNoSoundJson) {
  const auto error = [](const std::string& text) {
    return environment_error([&] { parse_text(text); });
  };
  EXPECT_THAT(error(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("{\"hidden_size\": 48"), HasSubstr("not valid JSON at byte 18"));
  EXPECT_THAT(error("[]"), HasSubstr("must be a JSON object"));
  EXPECT_THAT(error("{\"a\": 1e999}"), HasSubstr("out of range"));
  EXPECT_THAT(error("{\"a\": 1, \"b\": {\"c\": 2, \"c\": 3}}"), HasSubstr("\"c\" twice"));
  EXPECT_THAT(error(std::string(100000, '[')), HasSubstr("nested deeper"));
  // The same name in two objects is no repetition.
  EXPECT_THAT(error("{\"a\": {\"c\": 1}, \"b\": [{\"c\": 2}, {\"c\": 3}]}"),
              HasSubstr("architectures"));
}

TEST(ModelFolder, MissingFileTellsWhatIsWanted) {
  const TempFolder folder;
  EXPECT_THAT(environment_error([&] { read_model_config(folder.path()); }),
              HasSubstr("config.json: no such file"));
}

TEST(ModelFolder, ResolveModel) {
  const TempFolder folder;
  EXPECT_THAT(environment_error([&] { resolve_model((folder.path() / "none").string()); }),
              HasSubstr("no such folder"));
  EXPECT_THAT(environment_error([&] { resolve_model(folder.path().string()); }),
              HasSubstr("no config.json"));
  write_file(folder.path() / "config.json", "{}");
  EXPECT_EQ(resolve_model(folder.path().string()), folder.path());
  const std::string packed = (folder.path() / "x.trireme").string();
  EXPECT_THAT(environment_error([&] { resolve_model(packed); }), HasSubstr("no such folder"));
  write_file(packed, "");
  EXPECT_EQ(resolve_model(packed), packed);
  ::setenv("TRIREME_DEMO_MODEL", folder.path().c_str(), 1);
  EXPECT_EQ(resolve_model("demo"), folder.path());
  ::setenv("TRIREME_DEMO_MODEL", "/nonexistent", 1);
  EXPECT_THAT(environment_error([] { resolve_model("demo"); }), HasSubstr("TRIREME_DEMO_MODEL"));
  ::unsetenv("TRIREME_DEMO_MODEL");
}

}  // namespace
}  // namespace trireme
