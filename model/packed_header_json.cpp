#include "model/packed_header_json.h"

#include <fmt/core.h>

#include "model/config_fields.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

constexpr const char* kNone = "none";

// The fields as they are named and ordered in the header: one list to write and to read.
template <typename Rope, typename Visit>
void visit_rope(Rope& r, const Visit& visit) {
  visit("scaling", r.scaling);
  visit("theta", r.theta);
  visit("factor", r.factor);
  visit("original_max_position", r.original_max_position);
  visit("low_freq_factor", r.low_freq_factor);
  visit("high_freq_factor", r.high_freq_factor);
  visit("beta_fast", r.beta_fast);
  visit("beta_slow", r.beta_slow);
  visit("attention_factor", r.attention_factor);
  visit("mscale", r.mscale);
  visit("mscale_all_dim", r.mscale_all_dim);
  visit("truncate", r.truncate);
}

template <typename Config, typename Visit>
void visit_config(Config& c, const Visit& visit) {
  visit("architecture", c.architecture);
  visit("hidden_size", c.hidden_size);
  visit("intermediate_size", c.intermediate_size);
  visit("n_layers", c.n_layers);
  visit("n_heads", c.n_heads);
  visit("n_kv_heads", c.n_kv_heads);
  visit("head_dim", c.head_dim);
  visit("vocab_size", c.vocab_size);
  visit("max_position", c.max_position);
  visit("rms_norm_eps", c.rms_norm_eps);
  visit("attention_scale", c.attention_scale);
  visit("tie_embeddings", c.tie_embeddings);
  visit("qkv_bias", c.qkv_bias);
  visit("o_bias", c.o_bias);
  visit("mlp_bias", c.mlp_bias);
  visit("qk_norm", c.qk_norm);
  visit("layer_window", c.layer_window);
  visit("rope", c.rope);
  visit("eos_token_ids", c.eos_token_ids);
  visit("bos_token_id", c.bos_token_id);
}

struct Writer {
  PackedJson& out;

  template <typename T>
  void operator()(const char* name, const T& value) const {
    out[name] = value;
  }
  void operator()(const char* name, RopeConfig::Scaling value) const {
    out[name] = static_cast<int>(value);
  }
  void operator()(const char* name, const RopeConfig& rope) const {
    visit_rope(rope, Writer{out[name]});
  }
};

struct Reader {
  const nlohmann::json& in;

  // A fraction is another type; a number that does not fit differs when it is written again.
  static int32_t integer(const nlohmann::json& json) {
    return static_cast<int32_t>(json.get_ref<const nlohmann::json::number_integer_t&>());
  }
  template <typename T>
  void operator()(const char* name, T& value) const {
    in.at(name).get_to(value);
  }
  void operator()(const char* name, int32_t& value) const { value = integer(in.at(name)); }
  void operator()(const char* name, std::vector<int32_t>& values) const {
    for (const nlohmann::json& item : in.at(name)) values.push_back(integer(item));
  }
  void operator()(const char* name, RopeConfig::Scaling& value) const {
    value = static_cast<RopeConfig::Scaling>(integer(in.at(name)));
  }
  void operator()(const char* name, RopeConfig& rope) const {
    visit_rope(rope, Reader{in.at(name)});
  }
};

}  // namespace

PackedJson packed_config_to_json(const ModelConfig& config) {
  PackedJson json;
  visit_config(config, Writer{json});
  return json;
}

ModelConfig packed_config_from_json(const nlohmann::json& json) {
  ModelConfig config;
  visit_config(config, Reader{json});
  return config;
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
    return Error{fmt::format("this build cannot read weights with {} {}", shown_json(field),
                             shown_json(json.at(field))),
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
