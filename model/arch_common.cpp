#include <cmath>

#include <fmt/core.h>

#include "model/arch_spec.h"
#include "model/model_limits.h"
#include "model/rope_config.h"

namespace trireme {
namespace {

void refuse_unsupported(const ConfigFields& config) {
  if (config.string_or("hidden_act", "silu") != "silu") {
    config.fail("hidden_act", "must be \"silu\" (no other activation is supported)");
  }
  if (config.has("quantization_config")) {
    config.fail(
        "quantization_config",
        "must be absent (quantized weights are not supported; take the F32, F16 or BF16 one)");
  }
}

void parse_heads(const ConfigFields& config, const ConfigDefaults& defaults, ModelConfig& out) {
  out.n_heads = static_cast<int32_t>(config.integer("num_attention_heads", {1, kMaxHeads}));
  // A null means "as many as query heads"; an absent field means what the architecture says.
  const bool absent = !config.has_key("num_key_value_heads");
  const int32_t n_kv_default =
      absent && defaults.n_kv_heads > 0 ? defaults.n_kv_heads : out.n_heads;
  out.n_kv_heads =
      static_cast<int32_t>(config.integer_or("num_key_value_heads", n_kv_default, {1, kMaxHeads}));
  if (out.n_heads % out.n_kv_heads != 0) {
    config.fail("num_key_value_heads",
                fmt::format("must divide num_attention_heads, which is {}", out.n_heads));
  }
  int32_t head_dim_default = config.has_key("head_dim") ? 0 : defaults.head_dim;
  if (head_dim_default == 0 && !config.has("head_dim")) {
    if (out.hidden_size % out.n_heads != 0) {
      config.fail("head_dim", fmt::format("must be given where hidden_size {} is not a multiple of "
                                          "num_attention_heads {}",
                                          out.hidden_size, out.n_heads));
    }
    head_dim_default = out.hidden_size / out.n_heads;
  }
  out.head_dim =
      static_cast<int32_t>(config.integer_or("head_dim", head_dim_default, {2, kMaxHeadDim}));
  if (out.head_dim % 2 != 0 || out.head_dim < 2 || out.head_dim > kMaxHeadDim) {
    config.fail("head_dim", fmt::format("must be an even number from 2 to {} (hidden_size {} / "
                                        "num_attention_heads {} where it is missing)",
                                        kMaxHeadDim, out.hidden_size, out.n_heads));
  }
  out.attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(out.head_dim)));
}

}  // namespace

std::vector<int64_t> WeightSpec::hf_shape() const {
  if (split == Split::kWhole) return {n};
  return {n, k};
}

const ArchSpec* find_architecture(std::string_view hf_name) {
  for (const ArchSpec* arch : kArchitectures) {
    if (arch->hf_name == hf_name) return arch;
  }
  return nullptr;
}

std::string supported_architectures() {
  std::string out;
  for (const ArchSpec* arch : kArchitectures) {
    if (!out.empty()) out += ", ";
    out += arch->hf_name;
  }
  return out;
}

ConfigFields::IntLimits window_limits() { return {1, std::numeric_limits<int32_t>::max()}; }

ModelConfig parse_decoder_config(const ConfigFields& config, const ConfigDefaults& defaults) {
  refuse_unsupported(config);
  ModelConfig out;
  const auto size = [&config](std::string_view name, int32_t limit) {
    return static_cast<int32_t>(config.integer(name, {1, limit}));
  };
  out.hidden_size = size("hidden_size", kMaxHiddenSize);
  out.intermediate_size = size("intermediate_size", kMaxIntermediateSize);
  out.n_layers = size("num_hidden_layers", kMaxLayers);
  out.vocab_size = size("vocab_size", kMaxVocabSize);
  parse_heads(config, defaults, out);
  out.max_position = static_cast<int32_t>(
      config.integer_or("max_position_embeddings", defaults.max_position, {1, kMaxPosition}));
  out.rms_norm_eps =
      static_cast<float>(config.number_or("rms_norm_eps", 1.0e-6, {1.0e-12, kMaxNormEps}));
  out.tie_embeddings = config.boolean_or("tie_word_embeddings", false);
  out.layer_window.assign(static_cast<size_t>(out.n_layers), 0);
  out.rope = parse_rope_config(config, out.max_position);
  return out;
}

std::vector<int32_t> parse_qwen_windows(const ConfigFields& config, int32_t n_layers) {
  const auto n = static_cast<size_t>(n_layers);
  std::vector<int32_t> windows(n, 0);
  int32_t window = 0;  // 0: none
  if (config.boolean_or("use_sliding_window", false) &&
      (config.has("sliding_window") || !config.has_key("sliding_window"))) {
    window = static_cast<int32_t>(config.integer_or("sliding_window", 4096, window_limits()));
  }
  if (!config.has("layer_types")) {
    const int64_t first = config.integer_or("max_window_layers", 28, {0, kMaxLayers});
    for (size_t i = 0; i < n; ++i) {
      if (static_cast<int64_t>(i) >= first) windows[i] = window;
    }
    return windows;
  }
  const std::vector<std::string> types = config.strings("layer_types", kMaxLayers);
  if (types.size() != n) {
    config.fail("layer_types", fmt::format("must name num_hidden_layers = {} layers, not {}",
                                           n_layers, types.size()));
  }
  for (size_t i = 0; i < n; ++i) {
    if (types[i] == "sliding_attention") {
      if (window == 0) {
        config.fail("layer_types", "names sliding_attention without a sliding_window in use");
      }
      windows[i] = window;
    } else if (types[i] != "full_attention") {
      config.fail("layer_types", "may only name full_attention and sliding_attention");
    }
  }
  return windows;
}

std::string config_fault(const ModelConfig& config) {
  const auto outside = [](int32_t value, int32_t limit) { return value < 1 || value > limit; };
  if (find_architecture(config.architecture) == nullptr) return "architecture";
  if (outside(config.hidden_size, kMaxHiddenSize)) return "hidden_size";
  if (outside(config.intermediate_size, kMaxIntermediateSize)) return "intermediate_size";
  if (outside(config.n_layers, kMaxLayers)) return "n_layers";
  if (outside(config.vocab_size, kMaxVocabSize)) return "vocab_size";
  if (outside(config.max_position, kMaxPosition)) return "max_position";
  if (outside(config.n_heads, kMaxHeads)) return "n_heads";
  if (outside(config.n_kv_heads, config.n_heads) || config.n_heads % config.n_kv_heads != 0) {
    return "n_kv_heads";
  }
  if (outside(config.head_dim, kMaxHeadDim) || config.head_dim % 2 != 0) return "head_dim";
  if (!(config.rms_norm_eps > 0.0F && config.rms_norm_eps <= kMaxNormEps)) return "rms_norm_eps";
  if (!(config.attention_scale > 0.0F && config.attention_scale <= 1.0F)) return "attention_scale";
  if (config.layer_window.size() != static_cast<size_t>(config.n_layers)) return "layer_window";
  for (const int32_t window : config.layer_window) {
    if (window < 0) return "layer_window";
  }
  if (config.eos_token_ids.size() > kMaxEndTokens) return "eos_token_ids";
  for (const int32_t id : config.eos_token_ids) {
    if (id < 0 || id >= config.vocab_size) return "eos_token_ids";
  }
  if (config.bos_token_id < -1 || config.bos_token_id >= config.vocab_size) return "bos_token_id";
  return rope_fault(config.rope);
}

}  // namespace trireme
