#include "model/arch_spec.h"

namespace trireme {
namespace {

ModelConfig parse(const ConfigFields& config) {
  ModelConfig out = parse_decoder_config(config, {.n_kv_heads = 8, .max_position = 131072});
  // Null: full attention. Absent: the window that the first Mistral had.
  if (config.has("sliding_window") || !config.has_key("sliding_window")) {
    const int64_t window = config.integer_or("sliding_window", 4096, window_limits());
    out.layer_window.assign(out.layer_window.size(), static_cast<int32_t>(window));
  }
  return out;
}

}  // namespace

const ArchSpec kMistralArch = {"MistralForCausalLM", "mistral", parse, decoder_weights};

}  // namespace trireme
