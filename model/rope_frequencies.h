#pragma once

#include <vector>

#include "model/model_config.h"

namespace trireme {

// What the rope kernel turns positions with: angle = position * inv_freq[i] in float32, and
// cos and sin are multiplied by `scale` (yarn's attention factor).
struct RopeFrequencies {
  std::vector<float> inv_freq;  // [head_dim / 2]
  float scale = 1.0F;
};

// Computed with the project's own exp and log, so that every machine gets the same bits. Scalings
// that depend on the sequence length (dynamic) are fixed for `context_length`, the served length.
// Formulas: transformers' modeling_rope_utils; YaRN: arXiv 2309.00071.
RopeFrequencies rope_frequencies(const ModelConfig& config, int32_t context_length);

// The context length to serve where none is asked for: max_position, and with dynamic scaling
// `factor` times that.
int32_t default_context_length(const ModelConfig& config);

}  // namespace trireme
