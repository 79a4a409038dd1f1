#pragma once

#include <filesystem>
#include <string>

namespace trireme {

// Of a model's folder: where sentence-transformers keeps how hidden states become an embedding.
constexpr const char* kPoolingConfigFile = "1_Pooling/config.json";

// The way that the folder asks for, if it is another than taking the last token's hidden state, or
// "". Throws EnvironmentError.
std::string other_pooling(const std::filesystem::path& model_folder);

}  // namespace trireme
