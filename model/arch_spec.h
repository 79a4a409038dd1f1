#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config_fields.h"
#include "model/model_config.h"

namespace trireme {

// How a weight [n, k] is cut into blocks.
enum class Split : uint8_t {
  kWhole,         // a vector, on every rank
  kHeadColumns,   // one block per attention leaf: the columns of its query heads
  kKvColumns,     // one block per KV head
  kHeadRows,      // one block per attention leaf: K is its query heads' outputs
  kMlpColumns,    // one block per MLP leaf
  kMlpRows,       // one block per MLP leaf
  kVocabColumns,  // one block per kVocabChunk columns
};

// One weight of a model: where it is in a Hugging Face folder, what shape it must have there, and
// how it is cut.
struct WeightSpec {
  std::string name;     // in the packed file: "layers.3.q"
  std::string hf_name;  // in safetensors: "model.layers.3.self_attn.q_proj.weight"
  std::string hf_bias;  // its bias [n], or ""; only where the columns are split
  int32_t n = 0;        // outputs; the length of a vector
  int32_t k = 0;        // inputs; 1 for a vector
  Split split = Split::kWhole;
  int32_t layer = -1;                     // -1: outside the layers
  std::vector<int64_t> hf_shape() const;  // [n, k], or [n] for a vector
};

// One row per architecture: what its config.json means and which weights it has.
struct ArchSpec {
  std::string_view hf_name;                                 // "LlamaForCausalLM"
  std::string_view model_type;                              // "llama"
  ModelConfig (*parse_config)(const ConfigFields& config);  // throws EnvironmentError
  std::vector<WeightSpec> (*weights)(const ModelConfig& config);
};

extern const ArchSpec kLlamaArch;
extern const ArchSpec kMistralArch;
extern const ArchSpec kQwen2Arch;
extern const ArchSpec kQwen3Arch;

// Every architecture there is.
inline constexpr std::array kArchitectures = {&kLlamaArch, &kMistralArch, &kQwen2Arch, &kQwen3Arch};

// Null when there is no such architecture.
const ArchSpec* find_architecture(std::string_view hf_name);
// "LlamaForCausalLM, MistralForCausalLM, ..."
std::string supported_architectures();

// --- what the rows share ---

// What an absent field means, where architectures differ (transformers' configuration classes).
struct ConfigDefaults {
  int32_t n_kv_heads = 0;  // 0: n_heads
  int32_t head_dim = 0;    // 0: hidden_size / n_heads
  int32_t max_position = 0;
};

// Everything but biases, norms of q and k, and windows (all layers get full attention).
ModelConfig parse_decoder_config(const ConfigFields& config, const ConfigDefaults& defaults);

// Qwen's use_sliding_window, sliding_window, max_window_layers and layer_types.
std::vector<int32_t> parse_qwen_windows(const ConfigFields& config, int32_t n_layers);

// The limits that parse_decoder_config() sets on sliding_window.
ConfigFields::IntLimits window_limits();

// Weights of the pre-norm decoder with gated MLP that all these architectures are, in the order of
// the packed file.
std::vector<WeightSpec> decoder_weights(const ModelConfig& config);

// Checks a config that did not come from config.json (the packed file's) against the same limits.
// Returns what is wrong, or "".
std::string config_fault(const ModelConfig& config);

}  // namespace trireme
