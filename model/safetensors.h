#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/mapped_file.h"

namespace trireme {

// Element types that are read. Others may stand in a file as long as nobody asks for them.
enum class SourceDType : uint8_t { kF32, kF16, kBF16, kOther };

// One tensor of a safetensors file: a view into the mapping, at any alignment.
struct SourceTensor {
  SourceDType dtype = SourceDType::kOther;
  std::string dtype_name;  // "BF16"
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  uint64_t size_bytes = 0;
  uint64_t file_offset = 0;
};

// "[4096, 64]"
std::string shape_text(const std::vector<int64_t>& shape);

// A safetensors file (https://huggingface.co/docs/safetensors): u64 header size, a JSON header of
// {name: {dtype, shape, data_offsets}}, data. Mapped; nothing is trusted.
class SafetensorsFile {
 public:
  // Throws EnvironmentError naming file, tensor and offset.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, SourceTensor, std::less<>>& tensors() const { return tensors_; }

 private:
  std::filesystem::path path_;
  MappedFile file_;
  std::map<std::string, SourceTensor, std::less<>> tensors_;
};

}  // namespace trireme
