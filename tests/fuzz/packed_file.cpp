#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/int_math.h"
#include "kernels/weight.h"
#include "model/checksum.h"
#include "model/mapped_file.h"
#include "model/packed_header.h"
#include "model/packed_model.h"
#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

constexpr uint64_t kMaxFileBytes = 1ULL << 32;
constexpr uint64_t kVerifiedBytes = 1ULL << 20;  // files up to this size are read whole

// Where the last of the listed blocks ends, so that a header whose blocks were changed gets the
// file that it would need. Anything may be wrong with the header.
uint64_t claimed_data_bytes(std::string_view text) {
  uint64_t end = 0;
  try {
    const nlohmann::json header = nlohmann::json::parse(text);
    for (const nlohmann::json& tensor : header.at("tensors")) {
      for (const nlohmann::json& block : tensor.at("blocks")) {
        const auto at = [&block](size_t i) { return block.at(i).get<uint64_t>() % kMaxFileBytes; };
        end = std::max(end, at(0) + at(1));
        if (at(2) != 0) end = std::max(end, at(2) + n_padded(static_cast<int64_t>(at(3))) * 4);
      }
    }
  } catch (const nlohmann::json::exception&) {
    return 0;
  }
  return std::min(round_up(end, kPackedAlignment), kMaxFileBytes);
}

// A JSON header alone gets the head that fits it: its checksum would hide all that lies behind.
void write_file(std::string_view input, fuzz::MemoryFile& file) {
  if (!input.starts_with('{')) return file.write(input, input.size());
  PackedHead head;
  head.magic = kPackedMagic;
  head.version = kPackedVersion;
  head.header_bytes = input.size();
  head.header_checksum = checksum64(std::as_bytes(std::span(input)));
  head.data_begin = round_up(sizeof head + input.size(), kPackedPage);
  head.file_bytes = head.data_begin + claimed_data_bytes(input);
  std::string bytes(sizeof head, '\0');
  std::memcpy(bytes.data(), &head, sizeof head);
  bytes += input;
  file.write(bytes, head.file_bytes);
}

// Every block of an accepted header lies inside the file, aligned, and overlaps none; what the
// header says is what this build would write.
void check_header(const std::filesystem::path& path) {
  const MappedFile file(path);
  const PackedHeader header = read_packed_header(file.bytes(), path.string());
  const uint64_t data_bytes = file.bytes().size() - header.data_begin;
  uint64_t end = 0;
  for (const PackedLayout::BlockId id : header.layout.order) {
    const PackedBlock& block = header.layout.at(id);
    TRIREME_CHECK(block.offset % kPackedAlignment == 0 && block.offset >= end);
    TRIREME_CHECK(block.offset + block.size_bytes <= block.end && block.end <= data_bytes);
    TRIREME_CHECK(block.bias_offset == 0 || block.bias_offset >= block.offset + block.size_bytes);
    TRIREME_CHECK(block.n > 0 && block.k > 0);
    end = block.end;
  }
  TRIREME_CHECK(write_packed_header(header).size() <= header.data_begin);
}

void check_model(const std::filesystem::path& path) {
  const std::shared_ptr<const PackedModel> model = PackedModel::open(path);
  TRIREME_CHECK(model->n_blocks("embedding") > 0);
  TRIREME_CHECK(model->block("embedding", 0).data != nullptr);
  if (model->size_bytes() <= kVerifiedBytes) {
    (void)model->find_damage(nullptr, [](uint64_t, uint64_t) { return true; });
  }
}

}  // namespace
}  // namespace trireme

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  static fuzz::MemoryFile file;
  write_file(fuzz::text_of(data, size), file);
  const bool is_sound = fuzz::accepts([] { check_header(file.path()); });
  TRIREME_CHECK(fuzz::accepts([] { check_model(file.path()); }) == is_sound);
  return 0;
}
