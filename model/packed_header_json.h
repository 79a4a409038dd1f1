#pragma once

#include <nlohmann/json.hpp>

#include "kernels/result.h"
#include "kernels/weight.h"
#include "model/model_config.h"

namespace trireme {

// Parts of a packed file's header as JSON. Reading one throws nlohmann::json::exception where a
// field is missing or of another type.
using PackedJson = nlohmann::ordered_json;

PackedJson packed_config_to_json(const ModelConfig& config);
// As it stands, unchecked: where a number does not fit its field, or a field is unknown, the config
// written again is another JSON.
ModelConfig packed_config_from_json(const nlohmann::json& json);

// How a weight's blocks are stored, with all that a reader must know: format and group size; the
// type of scales and zero points; sparsity; how panels are laid out. Each is "none" where a format
// has no such thing.
PackedJson encoding_to_json(WeightEncoding encoding);
// An Error says what this build cannot read.
Result<WeightEncoding> encoding_from_json(const nlohmann::json& json);

}  // namespace trireme
