#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "model/packed_encodings.h"

namespace trireme {

constexpr const char* kPackedSuffix = ".trireme";
constexpr const char* kPackedFolderFile = "weights.trireme";

// Where a model lies that resolve_model() gave: a Hugging Face folder; a packed folder, which holds
// weights.trireme, the config and the tokenizer's files; or a packed file by itself.
struct ModelPlace {
  std::filesystem::path folder;  // with the tokenizer's files, if there are any
  std::filesystem::path packed;  // the packed file; empty: it must be packed first
};
ModelPlace model_place(const std::filesystem::path& model);

// Packs a Hugging Face folder to `out`: to that one file where it ends in .trireme, else to a
// packed folder, which is made. Returns the packed file. Throws EnvironmentError.
std::filesystem::path pack_model_to(const std::filesystem::path& model_folder,
                                    const std::filesystem::path& out,
                                    const PackedEncodings& encodings,
                                    const std::function<void(uint64_t, uint64_t)>& on_progress);

// How to make a packed file again, for messages.
std::string remake_hint(const std::filesystem::path& file);

}  // namespace trireme
