#include "model/model_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace trireme {
namespace {

// Compares fields in order; the first that differs stays.
class Comparison {
 public:
  template <typename T>
  Comparison& field(const char* name, const T& value, const T& wanted) {
    if (difference_.empty() && !(value == wanted))
      difference_ = fmt::format("{} is {}, not {}", name, value, wanted);
    return *this;
  }
  const std::string& difference() const { return difference_; }

 private:
  std::string difference_;
};

void compare_rope(Comparison& out, const RopeConfig& a, const RopeConfig& b) {
  out.field("the kind of rope scaling", static_cast<int>(a.scaling), static_cast<int>(b.scaling))
      .field("rope_theta", a.theta, b.theta)
      .field("rope factor", a.factor, b.factor)
      .field("original_max_position_embeddings", a.original_max_position, b.original_max_position)
      .field("low_freq_factor", a.low_freq_factor, b.low_freq_factor)
      .field("high_freq_factor", a.high_freq_factor, b.high_freq_factor)
      .field("beta_fast", a.beta_fast, b.beta_fast)
      .field("beta_slow", a.beta_slow, b.beta_slow)
      .field("attention_factor", a.attention_factor, b.attention_factor)
      .field("mscale", a.mscale, b.mscale)
      .field("mscale_all_dim", a.mscale_all_dim, b.mscale_all_dim)
      .field("truncate", a.truncate, b.truncate);
}

}  // namespace

std::string config_difference(const ModelConfig& config, const ModelConfig& wanted) {
  const ModelConfig& a = config;
  const ModelConfig& b = wanted;
  Comparison out;
  out.field("architecture", a.architecture, b.architecture)
      .field("hidden_size", a.hidden_size, b.hidden_size)
      .field("intermediate_size", a.intermediate_size, b.intermediate_size)
      .field("num_hidden_layers", a.n_layers, b.n_layers)
      .field("num_attention_heads", a.n_heads, b.n_heads)
      .field("num_key_value_heads", a.n_kv_heads, b.n_kv_heads)
      .field("head_dim", a.head_dim, b.head_dim)
      .field("vocab_size", a.vocab_size, b.vocab_size)
      .field("max_position_embeddings", a.max_position, b.max_position)
      .field("rms_norm_eps", a.rms_norm_eps, b.rms_norm_eps)
      .field("the scale of attention", a.attention_scale, b.attention_scale)
      .field("tie_word_embeddings", a.tie_embeddings, b.tie_embeddings)
      .field("a bias of q, k and v", a.qkv_bias, b.qkv_bias)
      .field("a bias of o", a.o_bias, b.o_bias)
      .field("mlp_bias", a.mlp_bias, b.mlp_bias)
      .field("a norm of q and k", a.qk_norm, b.qk_norm)
      .field("the layers' sliding window", a.layer_window, b.layer_window);
  compare_rope(out, a.rope, b.rope);
  out.field("eos_token_id", a.eos_token_ids, b.eos_token_ids)
      .field("bos_token_id", a.bos_token_id, b.bos_token_id);
  return out.difference();
}

}  // namespace trireme
