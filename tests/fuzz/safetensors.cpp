#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

constexpr uint64_t kDataBytes = 1U << 20;

// A header alone is put into a file around it, so that changing its length keeps it readable.
void write_file(std::string_view input, fuzz::MemoryFile& file) {
  if (!input.starts_with('{')) return file.write(input, input.size());
  const uint64_t header_bytes = input.size();
  std::string bytes(sizeof header_bytes, '\0');
  std::memcpy(bytes.data(), &header_bytes, sizeof header_bytes);
  bytes += input;
  file.write(bytes, bytes.size() + kDataBytes);
}

// What is accepted lies inside the file, is as large as its shape says, and overlaps nothing.
void check_tensors(const SafetensorsFile& file) {
  const uint64_t file_bytes = std::filesystem::file_size(file.path());
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  uint64_t sum = 0;
  for (const auto& [name, tensor] : file.tensors()) {
    TRIREME_CHECK(tensor.file_offset <= file_bytes);
    TRIREME_CHECK(tensor.size_bytes <= file_bytes - tensor.file_offset);
    uint64_t n_values = 1;
    for (const int64_t dim : tensor.shape) {
      TRIREME_CHECK(dim >= 0);
      n_values *= static_cast<uint64_t>(dim);
    }
    const uint64_t value_bytes = tensor.dtype == SourceDType::kF32     ? 4
                                 : tensor.dtype == SourceDType::kOther ? 0
                                                                       : 2;
    TRIREME_CHECK(value_bytes == 0 || tensor.size_bytes == n_values * value_bytes);
    if (tensor.size_bytes == 0) continue;
    spans.emplace_back(tensor.file_offset, tensor.file_offset + tensor.size_bytes);
    sum += static_cast<uint64_t>(tensor.data[0]) +
           static_cast<uint64_t>(tensor.data[tensor.size_bytes - 1]);
  }
  std::sort(spans.begin(), spans.end());
  for (size_t i = 1; i < spans.size(); ++i) TRIREME_CHECK(spans[i - 1].second <= spans[i].first);
  TRIREME_CHECK(sum <= 2 * 255 * spans.size());
}

}  // namespace
}  // namespace trireme

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  static fuzz::MemoryFile file;
  write_file(fuzz::text_of(data, size), file);
  fuzz::accepts([] { check_tensors(SafetensorsFile(file.path())); });
  return 0;
}
