#include "model/packed_header_json.h"

#include <fmt/core.h>

#include "model/weight_format.h"

namespace trireme {
namespace {

constexpr const char* kNone = "none";

PackedJson rope_to_json(const RopeConfig& r) {
  return {{"scaling", static_cast<int>(r.scaling)},
          {"theta", r.theta},
          {"factor", r.factor},
          {"original_max_position", r.original_max_position},
          {"low_freq_factor", r.low_freq_factor},
          {"high_freq_factor", r.high_freq_factor},
          {"beta_fast", r.beta_fast},
          {"beta_slow", r.beta_slow},
          {"attention_factor", r.attention_factor},
          {"mscale", r.mscale},
          {"mscale_all_dim", r.mscale_all_dim},
          {"truncate", r.truncate}};
}

RopeConfig rope_from_json(const nlohmann::json& j) {
  RopeConfig r;
  r.scaling = static_cast<RopeConfig::Scaling>(j.at("scaling").get<uint8_t>());
  r.theta = j.at("theta").get<double>();
  r.factor = j.at("factor").get<double>();
  r.original_max_position = j.at("original_max_position").get<int32_t>();
  r.low_freq_factor = j.at("low_freq_factor").get<double>();
  r.high_freq_factor = j.at("high_freq_factor").get<double>();
  r.beta_fast = j.at("beta_fast").get<double>();
  r.beta_slow = j.at("beta_slow").get<double>();
  r.attention_factor = j.at("attention_factor").get<double>();
  r.mscale = j.at("mscale").get<double>();
  r.mscale_all_dim = j.at("mscale_all_dim").get<double>();
  r.truncate = j.at("truncate").get<bool>();
  return r;
}

}  // namespace

PackedJson packed_config_to_json(const ModelConfig& c) {
  return {{"architecture", c.architecture},
          {"hidden_size", c.hidden_size},
          {"intermediate_size", c.intermediate_size},
          {"n_layers", c.n_layers},
          {"n_heads", c.n_heads},
          {"n_kv_heads", c.n_kv_heads},
          {"head_dim", c.head_dim},
          {"vocab_size", c.vocab_size},
          {"max_position", c.max_position},
          {"rms_norm_eps", c.rms_norm_eps},
          {"attention_scale", c.attention_scale},
          {"tie_embeddings", c.tie_embeddings},
          {"qkv_bias", c.qkv_bias},
          {"o_bias", c.o_bias},
          {"mlp_bias", c.mlp_bias},
          {"qk_norm", c.qk_norm},
          {"layer_window", c.layer_window},
          {"rope", rope_to_json(c.rope)},
          {"eos_token_ids", c.eos_token_ids},
          {"bos_token_id", c.bos_token_id}};
}

ModelConfig packed_config_from_json(const nlohmann::json& j) {
  ModelConfig c;
  c.architecture = j.at("architecture").get<std::string>();
  c.hidden_size = j.at("hidden_size").get<int32_t>();
  c.intermediate_size = j.at("intermediate_size").get<int32_t>();
  c.n_layers = j.at("n_layers").get<int32_t>();
  c.n_heads = j.at("n_heads").get<int32_t>();
  c.n_kv_heads = j.at("n_kv_heads").get<int32_t>();
  c.head_dim = j.at("head_dim").get<int32_t>();
  c.vocab_size = j.at("vocab_size").get<int32_t>();
  c.max_position = j.at("max_position").get<int32_t>();
  c.rms_norm_eps = j.at("rms_norm_eps").get<float>();
  c.attention_scale = j.at("attention_scale").get<float>();
  c.tie_embeddings = j.at("tie_embeddings").get<bool>();
  c.qkv_bias = j.at("qkv_bias").get<bool>();
  c.o_bias = j.at("o_bias").get<bool>();
  c.mlp_bias = j.at("mlp_bias").get<bool>();
  c.qk_norm = j.at("qk_norm").get<bool>();
  c.layer_window = j.at("layer_window").get<std::vector<int32_t>>();
  c.rope = rope_from_json(j.at("rope"));
  c.eos_token_ids = j.at("eos_token_ids").get<std::vector<int32_t>>();
  c.bos_token_id = j.at("bos_token_id").get<int32_t>();
  return c;
}

PackedJson encoding_to_json(WeightEncoding encoding) {
  return {{"format", weight_format_name(encoding.format)},
          {"group_size", encoding.group},
          {"scales", encoding.group == 0 ? kNone : "bf16"},
          {"zero_points", encoding.has_zeros ? "uint8" : kNone},
          {"sparsity", kNone},
          {"layout", "panels"},
          {"panel_columns", kPanelColumns},
          {"k_step", k_step(encoding.format)}};
}

Result<WeightEncoding> encoding_from_json(const nlohmann::json& json) {
  const auto refuse = [&json](const std::string& field) {
    return Error{
        fmt::format("this build cannot read weights with \"{}\" {}", field, json.at(field).dump()),
        field};
  };
  const auto format = find_weight_format(json.at("format").get<std::string>());
  if (!format) return refuse("format");
  WeightEncoding encoding = default_encoding(*format);
  encoding.has_zeros = *format == WeightFormat::kI4 && json.at("zero_points") != kNone;
  // Every field must be as this build would write it, and there must be no other.
  const PackedJson own = encoding_to_json(encoding);
  for (const auto& [field, value] : own.items()) {
    if (json.at(field) != nlohmann::json(value)) return refuse(field);
  }
  for (const auto& [field, value] : json.items()) {
    if (!own.contains(field)) return refuse(field);
  }
  return encoding;
}

}  // namespace trireme
