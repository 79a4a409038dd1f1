#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/weight.h"
#include "model/model_config.h"
#include "model/packed_layout.h"

namespace trireme {

// Start of a packed file, little-endian; then `header_bytes` of JSON, then zeros up to
// `data_begin`.
struct PackedHead {
  std::array<char, 8> magic{};
  uint32_t version = 0;
  uint32_t reserved = 0;  // 0
  uint64_t header_bytes = 0;
  uint64_t header_checksum = 0;  // checksum64() of the JSON
  uint64_t data_begin = 0;       // a multiple of kPackedPage
  uint64_t file_bytes = 0;
};
static_assert(sizeof(PackedHead) == 48);

constexpr std::array<char, 8> kPackedMagic = {'T', 'R', 'I', 'R', 'E', 'M', 'E', 'W'};
constexpr uint32_t kPackedVersion = 2;
constexpr uint64_t kPackedPage = 4096;
constexpr uint64_t kMaxPackedHeaderBytes = 512ULL << 20;

// A file's header, read and checked.
struct PackedHeader {
  ModelConfig config;
  PackedEncodings encodings;
  PackedLayout layout;
  std::vector<std::vector<uint64_t>> checksums;  // [tensor][block]
  uint64_t data_begin = 0;
};

// A header whose checksums are still 0.
PackedHeader make_packed_header(const ModelConfig& config, const PackedEncodings& encodings);

// Head, JSON and padding, up to the data. Its size does not depend on the checksums' values.
std::string write_packed_header(const PackedHeader& header);

// Size of the packed file of such a model.
uint64_t packed_file_bytes(const ModelConfig& config, const PackedEncodings& encodings);

// Reads the header of a whole file and checks it against the file's size and the layout that its
// config must have. Throws EnvironmentError.
PackedHeader read_packed_header(std::span<const std::byte> file, const std::string& file_name);

}  // namespace trireme
