#include <fmt/core.h>

#include "model/arch_spec.h"

namespace trireme {
namespace {

// Adds one layer's weights under the names that all these architectures share.
class LayerLister {
 public:
  LayerLister(int32_t layer, std::vector<WeightSpec>& out)
      : hf_(fmt::format("model.layers.{}.", layer)),
        own_(fmt::format("layers.{}.", layer)),
        layer_(layer),
        out_(out) {}

  void vector(const char* name, const std::string& hf_name, int32_t n) {
    out_.push_back({own_ + name, hf_ + hf_name, "", n, 1, Split::kWhole, layer_});
  }
  void matrix(const char* name, const std::string& module, int32_t n, int32_t k, Split split,
              bool bias) {
    out_.push_back({own_ + name, hf_ + module + ".weight", bias ? hf_ + module + ".bias" : "", n, k,
                    split, layer_});
  }

 private:
  std::string hf_;
  std::string own_;
  int32_t layer_;
  std::vector<WeightSpec>& out_;
};

void list_layer(const ModelConfig& c, int32_t layer, std::vector<WeightSpec>& out) {
  LayerLister list(layer, out);
  const int32_t q_size = c.n_heads * c.head_dim;
  const int32_t kv_size = c.n_kv_heads * c.head_dim;
  list.vector("input_norm", "input_layernorm.weight", c.hidden_size);
  list.vector("post_norm", "post_attention_layernorm.weight", c.hidden_size);
  if (c.qk_norm) {
    list.vector("q_norm", "self_attn.q_norm.weight", c.head_dim);
    list.vector("k_norm", "self_attn.k_norm.weight", c.head_dim);
  }
  // A row-parallel layer's bias is added once, after the sum over ranks: a vector of its own.
  if (c.o_bias) list.vector("o_bias", "self_attn.o_proj.bias", c.hidden_size);
  if (c.mlp_bias) list.vector("down_bias", "mlp.down_proj.bias", c.hidden_size);
  list.matrix("q", "self_attn.q_proj", q_size, c.hidden_size, Split::kHeadColumns, c.qkv_bias);
  list.matrix("k", "self_attn.k_proj", kv_size, c.hidden_size, Split::kKvColumns, c.qkv_bias);
  list.matrix("v", "self_attn.v_proj", kv_size, c.hidden_size, Split::kKvColumns, c.qkv_bias);
  list.matrix("o", "self_attn.o_proj", c.hidden_size, q_size, Split::kHeadRows, false);
  list.matrix("gate", "mlp.gate_proj", c.intermediate_size, c.hidden_size, Split::kMlpColumns,
              c.mlp_bias);
  list.matrix("up", "mlp.up_proj", c.intermediate_size, c.hidden_size, Split::kMlpColumns,
              c.mlp_bias);
  list.matrix("down", "mlp.down_proj", c.hidden_size, c.intermediate_size, Split::kMlpRows, false);
}

}  // namespace

std::vector<WeightSpec> decoder_weights(const ModelConfig& config) {
  std::vector<WeightSpec> out;
  out.push_back({"embedding", "model.embed_tokens.weight", "", config.vocab_size,
                 config.hidden_size, Split::kVocabColumns});
  for (int32_t layer = 0; layer < config.n_layers; ++layer) list_layer(config, layer, out);
  out.push_back({"final_norm", "model.norm.weight", "", config.hidden_size, 1, Split::kWhole});
  if (!config.tie_embeddings) {
    out.push_back({"lm_head", "lm_head.weight", "", config.vocab_size, config.hidden_size,
                   Split::kVocabColumns});
  }
  return out;
}

}  // namespace trireme
