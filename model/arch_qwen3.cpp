#include "model/arch_spec.h"

namespace trireme {
namespace {

ModelConfig parse(const ConfigFields& config) {
  ModelConfig out =
      parse_decoder_config(config, {.n_kv_heads = 32, .head_dim = 128, .max_position = 32768});
  out.qkv_bias = config.boolean_or("attention_bias", false);
  out.o_bias = out.qkv_bias;
  out.qk_norm = true;
  out.layer_window = parse_qwen_windows(config, out.n_layers);
  return out;
}

}  // namespace

const ArchSpec kQwen3Arch = {"Qwen3ForCausalLM", "qwen3", parse, decoder_weights};

}  // namespace trireme
