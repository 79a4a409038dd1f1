#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trireme {

// Rotary position embedding, as fixed for one served context length.
struct RopeConfig {
  enum class Scaling : uint8_t { kNone, kLinear, kDynamic, kYarn, kLlama3 };
  Scaling scaling = Scaling::kNone;
  double theta = 10000.0;
  double factor = 1.0;
  int32_t original_max_position = 0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  double attention_factor = 0.0;  // yarn; 0: from factor (and mscale)
  double mscale = 0.0;            // yarn; 0: not given
  double mscale_all_dim = 0.0;    // yarn; 0: not given
  bool truncate = true;           // yarn
};

// A decoder-only model, whatever its architecture's names for these. Field names are the field's.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t n_layers = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t vocab_size = 0;
  int32_t max_position = 0;  // max_position_embeddings
  float rms_norm_eps = 1e-6F;
  float attention_scale = 0.0F;  // 1 / sqrt(head_dim) unless the architecture says otherwise
  bool tie_embeddings = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;               // Qwen3: RMS norm over head_dim of q and k, before rope
  std::vector<int32_t> layer_window;  // [n_layers], sliding window in tokens, 0: full attention
  RopeConfig rope;
  std::vector<int32_t> eos_token_ids;  // generation_config.json first, then config.json
  int32_t bos_token_id = -1;
};

// The first thing in which two models are not alike, with both values ("hidden_size is 64, not
// 128"), or "": then the weights of one can stand in for those of the other.
std::string config_difference(const ModelConfig& config, const ModelConfig& wanted);

}  // namespace trireme
