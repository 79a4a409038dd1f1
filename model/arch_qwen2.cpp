#include "model/arch_spec.h"

namespace trireme {
namespace {

ModelConfig parse(const ConfigFields& config) {
  ModelConfig out = parse_decoder_config(config, {.n_kv_heads = 32, .max_position = 32768});
  out.qkv_bias = true;
  out.layer_window = parse_qwen_windows(config, out.n_layers);
  return out;
}

}  // namespace

const ArchSpec kQwen2Arch = {"Qwen2ForCausalLM", "qwen2", parse, decoder_weights};

}  // namespace trireme
