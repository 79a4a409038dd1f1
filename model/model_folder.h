#pragma once

#include <filesystem>
#include <string>

#include "model/model_config.h"
#include "model/packed_folder.h"

namespace trireme {

// Reads and checks config.json (and generation_config.json for the end tokens) of a Hugging Face
// folder, as transformers 4 and 5 write them. Throws EnvironmentError with file, field, value and
// mend; an unknown architecture is told with the list of those supported.
ModelConfig read_model_config(const std::filesystem::path& model_folder);

// Whether a model served with such a config has the lm_head that draws text. Others are read as if
// their embeddings were tied: those with a classification head, and decoders by themselves
// ("Qwen3Model", or weights whose names have no "model." before them). Throws EnvironmentError.
bool has_lm_head(const ModelPlace& model, const ModelConfig& served);

// The folder or packed file (*.trireme) that a MODEL argument means. "demo" is the demo model:
// TRIREME_DEMO_MODEL, else demo/model beside the executable or in a folder above it, else
// ./demo/model. Throws EnvironmentError when there is no such file, or no such folder that holds a
// config.json.
std::filesystem::path resolve_model(const std::string& model);

}  // namespace trireme
