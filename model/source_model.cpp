#include "model/source_model.h"

#include <set>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kMaxFiles = 4096;
constexpr const char* kBareEmbedding = "embed_tokens.weight";

bool is_file(const fs::path& path) {
  std::error_code code;
  return fs::is_regular_file(path, code);
}

// tensor name -> file name, as the index says.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const nlohmann::json json = read_json_file(path);
  const ConfigFields index(json, path.string());
  if (!index.object("weight_map")) index.fail("weight_map", "must be an object of file names");
  std::map<std::string, std::string> out;
  const ConfigFields map = *index.object("weight_map");
  for (const auto& [name, value] : json["weight_map"].items()) {
    const std::string file = map.string(name);
    // A name that leaves the folder would read any file of this machine.
    if (file.find('/') != std::string::npos || file.find('\0') != std::string::npos ||
        !file.ends_with(".safetensors")) {
      map.fail(name, "must be the name of a .safetensors file in the same folder");
    }
    out.emplace(name, file);
  }
  return out;
}

// Part of many files, and never read: transformers recomputes it.
bool is_harmless(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

bool is_bare_name(std::string_view name) {
  return name.starts_with("embed_tokens.") || name.starts_with("layers.") ||
         name.starts_with("norm.");
}

bool looks_like_decoder_weight(std::string_view name) {
  return name.starts_with("model.") || name.starts_with("lm_head.");
}

}  // namespace

std::vector<fs::path> SourceModel::weight_files(const fs::path& folder) {
  if (is_file(folder / kSingle)) return {folder / kSingle};
  if (!is_file(folder / kIndex)) {
    throw EnvironmentError(fmt::format(
        "{}: holds neither {} nor {}; weights are read from safetensors only, so download or "
        "convert them",
        folder.string(), kSingle, kIndex));
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : read_index(folder / kIndex)) names.insert(file);
  if (names.empty() || names.size() > kMaxFiles) {
    throw EnvironmentError(
        fmt::format("{}: names {} files, but must name 1 to {}; download it again",
                    (folder / kIndex).string(), names.size(), kMaxFiles));
  }
  std::vector<fs::path> out = {folder / kIndex};
  for (const std::string& name : names) out.push_back(folder / name);
  return out;
}

SourceModel::SourceModel(const fs::path& folder) : folder_(folder) {
  const bool single = is_file(folder / kSingle);
  std::map<std::string, const SafetensorsFile*> by_name;
  for (const fs::path& path : weight_files(folder)) {
    if (path.extension() == ".json") continue;
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    by_name[path.filename().string()] = files_.back().get();
  }
  if (single) {
    for (const auto& [name, tensor] : files_.front()->tensors()) {
      tensors_[name] = {&tensor, files_.front().get()};
    }
    name_bare_decoder();
    return;
  }
  for (const auto& [name, file_name] : read_index(folder / kIndex)) {
    const SafetensorsFile* file = by_name.at(file_name);
    const auto it = file->tensors().find(name);
    if (it == file->tensors().end()) {
      throw EnvironmentError(
          fmt::format("{}: tensor \"{}\" is not in it, though {} says so; download both again",
                      file->path().string(), name, kIndex));
    }
    tensors_[name] = {&it->second, file};
  }
  name_bare_decoder();
}

bool SourceModel::is_bare_decoder(const fs::path& folder) {
  if (is_file(folder / kSingle)) {
    return SafetensorsFile(folder / kSingle).tensors().contains(kBareEmbedding);
  }
  return is_file(folder / kIndex) && read_index(folder / kIndex).contains(kBareEmbedding);
}

void SourceModel::name_bare_decoder() {
  if (!tensors_.contains(kBareEmbedding)) return;
  std::map<std::string, Entry, std::less<>> named;
  for (const auto& [name, entry] : tensors_)
    named[is_bare_name(name) ? "model." + name : name] = entry;
  tensors_ = std::move(named);
}

void SourceModel::check_tensor(const std::string& hf_name,
                               const std::vector<int64_t>& shape) const {
  const auto it = tensors_.find(hf_name);
  if (it == tensors_.end()) {
    throw EnvironmentError(fmt::format(
        "{}: tensor \"{}\" of shape {}, which config.json asks for, is in no file; correct "
        "config.json or download the model again",
        folder_.string(), hf_name, shape_text(shape)));
  }
  const auto& [tensor, file] = it->second;
  if (tensor->shape != shape) {
    throw EnvironmentError(fmt::format(
        "{}: at byte {}: tensor \"{}\" has shape {}, but config.json asks for {}; correct "
        "config.json or download the model again",
        file->path().string(), tensor->file_offset, hf_name, shape_text(tensor->shape),
        shape_text(shape)));
  }
  if (tensor->dtype == SourceDType::kOther) {
    throw EnvironmentError(
        fmt::format("{}: at byte {}: tensor \"{}\" has dtype {}, but only F32, F16 and BF16 are "
                    "read; take an unquantized version of the model",
                    file->path().string(), tensor->file_offset, hf_name, tensor->dtype_name));
  }
}

void SourceModel::check(std::span<const WeightSpec> specs) const {
  std::set<std::string_view> used;
  bool tied = true;
  for (const WeightSpec& spec : specs) {
    check_tensor(spec.hf_name, spec.hf_shape());
    used.insert(spec.hf_name);
    if (spec.hf_name == "lm_head.weight") tied = false;
    if (spec.hf_bias.empty()) continue;
    check_tensor(spec.hf_bias, {spec.n});
    used.insert(spec.hf_bias);
  }
  for (const auto& [name, entry] : tensors_) {
    if (used.contains(name) || is_harmless(name) || !looks_like_decoder_weight(name)) continue;
    if (tied && name == "lm_head.weight") continue;
    throw EnvironmentError(
        fmt::format("{}: at byte {}: tensor \"{}\" is part of the model, but its config.json has "
                    "no use for it; "
                    "correct config.json or download the model again",
                    entry.file->path().string(), entry.tensor->file_offset, name));
  }
}

const SourceTensor* SourceModel::find(std::string_view hf_name) const {
  const auto it = tensors_.find(hf_name);
  return it == tensors_.end() ? nullptr : it->second.tensor;
}

const SourceTensor& SourceModel::tensor(std::string_view hf_name) const {
  const SourceTensor* found = find(hf_name);
  TRIREME_CHECK(found != nullptr);
  return *found;
}

uint64_t SourceModel::size_bytes() const {
  uint64_t total = 0;
  for (const auto& [name, entry] : tensors_) total += entry.tensor->size_bytes;
  return total;
}

}  // namespace trireme
