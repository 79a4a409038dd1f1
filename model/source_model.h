#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/arch_spec.h"
#include "model/safetensors.h"

namespace trireme {

// The weights of a Hugging Face folder: model.safetensors, or the files that
// model.safetensors.index.json names.
class SourceModel {
 public:
  // Maps every file. Throws EnvironmentError.
  explicit SourceModel(const std::filesystem::path& folder);

  // Throws EnvironmentError unless every weight and bias of `specs` is there with its shape and a
  // type that is read, and no decoder weight would be left out.
  void check(std::span<const WeightSpec> specs) const;

  // Null: no file has it.
  const SourceTensor* find(std::string_view hf_name) const;
  // A tensor that check() has seen.
  const SourceTensor& tensor(std::string_view hf_name) const;
  // Whether a folder's decoder was saved by itself, as models made for embeddings are: its names
  // have no "model." before them, which the constructor adds, and there is no lm_head.
  static bool is_bare_decoder(const std::filesystem::path& folder);
  // Of the files that hold weights, and the index: sizes and times say whether they changed.
  static std::vector<std::filesystem::path> weight_files(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  uint64_t n_tensors() const { return tensors_.size(); }
  uint64_t size_bytes() const;

 private:
  struct Entry {
    const SourceTensor* tensor = nullptr;
    const SafetensorsFile* file = nullptr;
  };
  void name_bare_decoder();
  void check_tensor(const std::string& hf_name, const std::vector<int64_t>& shape) const;

  std::filesystem::path folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace trireme
