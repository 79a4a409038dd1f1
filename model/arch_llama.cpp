#include "model/arch_spec.h"

namespace trireme {
namespace {

ModelConfig parse(const ConfigFields& config) {
  ModelConfig out = parse_decoder_config(config, {.max_position = 2048});
  out.qkv_bias = config.boolean_or("attention_bias", false);
  out.o_bias = out.qkv_bias;
  out.mlp_bias = config.boolean_or("mlp_bias", false);
  return out;
}

}  // namespace

const ArchSpec kLlamaArch = {"LlamaForCausalLM", "llama", parse, decoder_weights};

}  // namespace trireme
