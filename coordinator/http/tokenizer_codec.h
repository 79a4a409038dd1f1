#pragma once

#include <filesystem>
#include <memory>

#include "coordinator/http/text_codec.h"

namespace trireme {

// The text side of a model folder: its tokenizer and, where it has one, its chat template. Throws
// EnvironmentError when they cannot be read.
std::unique_ptr<TextCodec> load_tokenizer_codec(const std::filesystem::path& model_folder);

}  // namespace trireme
