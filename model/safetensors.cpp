#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "kernels/result.h"
#include "model/config_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors are read as they lie");

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr uint64_t kSizeBytes = 8;
constexpr size_t kMaxRank = 8;
constexpr const char* kMend = "download the file again";

struct DTypeRow {
  std::string_view name;
  SourceDType dtype;
  uint64_t size_bytes;
};
constexpr std::array<DTypeRow, 15> kDTypes = {{
    {"F32", SourceDType::kF32, 4},
    {"F16", SourceDType::kF16, 2},
    {"BF16", SourceDType::kBF16, 2},
    {"F64", SourceDType::kOther, 8},
    {"I64", SourceDType::kOther, 8},
    {"U64", SourceDType::kOther, 8},
    {"I32", SourceDType::kOther, 4},
    {"U32", SourceDType::kOther, 4},
    {"I16", SourceDType::kOther, 2},
    {"U16", SourceDType::kOther, 2},
    {"I8", SourceDType::kOther, 1},
    {"U8", SourceDType::kOther, 1},
    {"BOOL", SourceDType::kOther, 1},
    {"F8_E4M3", SourceDType::kOther, 1},
    {"F8_E5M2", SourceDType::kOther, 1},
}};

// Tensors' names are longer than most values.
std::string quoted_name(const std::string& name) { return shown_json(name, 200); }

// Where the header says a tensor's bytes are, relative to the data.
struct Span {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::string name;
};

class HeaderReader {
 public:
  HeaderReader(std::string file, std::span<const std::byte> bytes)
      : file_(std::move(file)), bytes_(bytes) {}

  std::map<std::string, SourceTensor, std::less<>> read() {
    const Json header = parse();
    std::map<std::string, SourceTensor, std::less<>> out;
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      out.emplace(name, read_tensor(name, entry));
    }
    check_overlap();
    return out;
  }

 private:
  [[noreturn]] void fail(uint64_t offset, const std::string& what) const {
    throw EnvironmentError(fmt::format("{}: at byte {}: {}; {}", file_, offset, what, kMend));
  }

  Json parse() {
    if (bytes_.size() < kSizeBytes) {
      fail(0, fmt::format("the file ends after {} bytes, before its header size", bytes_.size()));
    }
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, bytes_.data(), kSizeBytes);
    if (header_bytes < 2 || header_bytes > kMaxHeaderBytes) {
      fail(0, fmt::format("the header size is {}, but must be from 2 to {}", header_bytes,
                          kMaxHeaderBytes));
    }
    if (header_bytes > bytes_.size() - kSizeBytes) {
      fail(0, fmt::format("the header has {} bytes, but the file ends after {}", header_bytes,
                          bytes_.size()));
    }
    data_begin_ = kSizeBytes + header_bytes;
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + kSizeBytes,
                                header_bytes);
    Json header = parse_json(text, file_, kSizeBytes);
    if (!header.is_object()) fail(kSizeBytes, "the header is not a JSON object");
    return header;
  }

  SourceTensor read_tensor(const std::string& name, const Json& entry) {
    const auto refuse = [&](const std::string& what) {
      fail(kSizeBytes, fmt::format("tensor {} {}", quoted_name(name), what));
    };
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
        !entry.contains("shape") || !entry["shape"].is_array() || !entry.contains("data_offsets") ||
        !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2) {
      refuse("has no dtype, shape and data_offsets of the right form");
    }
    SourceTensor out;
    out.dtype_name = entry["dtype"].get<std::string>();
    const auto* row = std::find_if(kDTypes.begin(), kDTypes.end(),
                                   [&out](const DTypeRow& r) { return r.name == out.dtype_name; });
    if (row == kDTypes.end())
      refuse(fmt::format("has the unknown dtype {}", quoted_name(out.dtype_name)));
    out.dtype = row->dtype;

    if (entry["shape"].size() > kMaxRank) refuse(fmt::format("has over {} dimensions", kMaxRank));
    uint64_t size = row->size_bytes;
    for (const Json& dim : entry["shape"]) {
      const std::optional<uint64_t> n = count(dim);
      if (!n || __builtin_mul_overflow(size, *n, &size)) refuse("has an impossible shape");
      out.shape.push_back(static_cast<int64_t>(*n));
    }
    const std::optional<uint64_t> begin = count(entry["data_offsets"][0]);
    const std::optional<uint64_t> end = count(entry["data_offsets"][1]);
    if (!begin || !end || *end < *begin) refuse("has impossible data_offsets");
    const uint64_t data_size = bytes_.size() - data_begin_;
    if (*end > data_size) {
      fail(data_begin_, fmt::format("tensor {} ends at byte {} of the data, which has only {}",
                                    quoted_name(name), *end, data_size));
    }
    out.file_offset = data_begin_ + *begin;
    out.size_bytes = *end - *begin;
    if (out.size_bytes != size) {
      fail(out.file_offset, fmt::format("tensor {} of shape {} and dtype {} needs {} bytes, "
                                        "but its data_offsets span {}",
                                        quoted_name(name), shape_text(out.shape), out.dtype_name,
                                        size, out.size_bytes));
    }
    out.data = bytes_.data() + out.file_offset;
    if (out.size_bytes > 0) spans_.push_back({*begin, *end, name});
    return out;
  }

  // A count or an offset: an integer that fits 63 bits.
  static std::optional<uint64_t> count(const Json& value) {
    if (!value.is_number_unsigned()) return std::nullopt;
    const auto n = value.get<uint64_t>();
    if (n > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return n;
  }

  void check_overlap() {
    std::sort(spans_.begin(), spans_.end(),
              [](const Span& a, const Span& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < spans_.size(); ++i) {
      if (spans_[i].begin < spans_[i - 1].end) {
        fail(data_begin_ + spans_[i].begin,
             fmt::format("tensors {} and {} overlap", quoted_name(spans_[i - 1].name),
                         quoted_name(spans_[i].name)));
      }
    }
  }

  std::string file_;
  std::span<const std::byte> bytes_;
  uint64_t data_begin_ = 0;
  std::vector<Span> spans_;
};

}  // namespace

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    out += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  }
  return out + "]";
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path), file_(path) {
  tensors_ = HeaderReader(path.string(), file_.bytes()).read();
}

}  // namespace trireme
