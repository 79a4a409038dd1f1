#pragma once

#include "model/config_fields.h"
#include "model/model_config.h"

namespace trireme {

// The rotary embedding of a config.json: rope_theta with rope_scaling (transformers 4), or
// rope_parameters (transformers 5). Throws EnvironmentError.
RopeConfig parse_rope_config(const ConfigFields& config, int32_t max_position);

// What is wrong with a RopeConfig that did not come from config.json, or "".
std::string rope_fault(const RopeConfig& rope);

}  // namespace trireme
