#include "model/packed_folder.h"

#include <array>

#include <fmt/core.h>

#include "kernels/result.h"
#include "model/packed_model.h"
#include "model/pooling_config.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

// All of a model's folder that serving reads, besides its weights.
constexpr std::array kCopiedFiles = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    kPoolingConfigFile,
};

[[noreturn]] void fail(const fs::path& path, const char* what, const std::error_code& code) {
  throw EnvironmentError(fmt::format("{}: cannot be {}: {}; choose another place to pack to",
                                     path.string(), what, code.message()));
}

}  // namespace

ModelPlace model_place(const fs::path& model) {
  std::error_code code;
  if (!fs::is_directory(model, code)) return {.folder = model.parent_path(), .packed = model};
  const fs::path packed = model / kPackedFolderFile;
  return {.folder = model, .packed = fs::is_regular_file(packed, code) ? packed : fs::path()};
}

fs::path pack_model_to(const fs::path& model_folder, const fs::path& out,
                       const PackedEncodings& encodings,
                       const std::function<void(uint64_t, uint64_t)>& on_progress) {
  if (out.extension() == kPackedSuffix) {
    pack_model(model_folder, out, encodings, on_progress);
    return out;
  }
  std::error_code code;
  fs::create_directories(out, code);
  if (code) fail(out, "made", code);
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (!fs::exists(out / name, code)) continue;
    throw EnvironmentError(fmt::format(
        "{}: holds a model already ({}); choose another folder to pack to", out.string(), name));
  }
  pack_model(model_folder, out / kPackedFolderFile, encodings, on_progress);
  for (const char* name : kCopiedFiles) {
    if (!fs::exists(model_folder / name, code)) continue;
    fs::create_directories((out / name).parent_path(), code);
    fs::copy_file(model_folder / name, out / name, fs::copy_options::overwrite_existing, code);
    if (code) fail(out / name, "written", code);
  }
  return out / kPackedFolderFile;
}

std::string remake_hint(const fs::path& file) {
  const bool in_folder = file.filename() == kPackedFolderFile;
  return fmt::format("make it again: trireme pack MODEL {} --format FORMAT",
                     (in_folder ? file.parent_path() : file).string());
}

}  // namespace trireme
