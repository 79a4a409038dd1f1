#include "model/packed_header.h"

#include <algorithm>
#include <cstring>

#include <fmt/core.h>

#include "kernels/check.h"
#include "kernels/int_math.h"
#include "kernels/result.h"
#include "model/checksum.h"
#include "model/config_fields.h"
#include "model/packed_folder.h"
#include "model/packed_header_json.h"

namespace trireme {
namespace {

using Json = PackedJson;

constexpr size_t kMaxEncodings = 256;

std::string hex(uint64_t value) { return fmt::format("{:016x}", value); }

// The encodings of a file, each once, the usual one first.
std::vector<WeightEncoding> distinct_encodings(const PackedEncodings& encodings) {
  std::vector<WeightEncoding> out = {encodings.usual};
  for (const auto& [tensor, encoding] : encodings.others) {
    if (std::find(out.begin(), out.end(), encoding) == out.end()) out.push_back(encoding);
  }
  return out;
}

Json tensors_to_json(const PackedHeader& header) {
  const std::vector<WeightEncoding> encodings = distinct_encodings(header.encodings);
  Json tensors = Json::array();
  for (size_t t = 0; t < header.layout.tensors.size(); ++t) {
    const PackedTensor& tensor = header.layout.tensors[t];
    Json blocks = Json::array();
    for (size_t b = 0; b < tensor.blocks.size(); ++b) {
      const PackedBlock& block = tensor.blocks[b];
      blocks.push_back({block.offset, block.size_bytes, block.bias_offset, block.n, block.k,
                        hex(header.checksums[t][b])});
    }
    Json json = {{"name", tensor.spec.name}};
    if (const auto other = header.encodings.others.find(tensor.spec.name);
        other != header.encodings.others.end()) {
      const auto at = std::find(encodings.begin(), encodings.end(), other->second);
      json["encoding"] = at - encodings.begin();
    }
    json["blocks"] = std::move(blocks);
    tensors.push_back(std::move(json));
  }
  return tensors;
}

class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> file, const std::string& name)
      : file_(file), name_(name) {}

  PackedHeader read() {
    read_head();
    const std::string_view text(reinterpret_cast<const char*>(file_.data()) + sizeof(PackedHead),
                                head_.header_bytes);
    const nlohmann::json json = parse_json(text, name_, sizeof(PackedHead));
    PackedHeader out;
    // The checksum fits, so a header of another form was not written by this version.
    try {
      read_fields(json, out);
      check_layout(json.at("tensors"), out);
    } catch (const nlohmann::json::exception&) {
      fail(sizeof(PackedHead), "a field of the header is missing or of the wrong type");
    }
    return out;
  }

 private:
  [[noreturn]] void fail(uint64_t offset, const std::string& what) const {
    throw EnvironmentError(
        fmt::format("{}: at byte {}: {}; {}", name_, offset, what, remake_hint(name_)));
  }

  void read_head() {
    if (file_.size() < sizeof(PackedHead)) {
      fail(file_.size(), "the packed file ends inside its head");
    }
    std::memcpy(&head_, file_.data(), sizeof(PackedHead));
    if (head_.magic != kPackedMagic) fail(0, "not a packed weights file");
    if (head_.version != kPackedVersion || head_.reserved != 0) {
      fail(8, fmt::format("packed version {}, but this build reads version {}", head_.version,
                          kPackedVersion));
    }
    if (head_.file_bytes != file_.size()) {
      fail(40, fmt::format("the file has {} bytes, but its head says {}", file_.size(),
                           head_.file_bytes));
    }
    if (head_.header_bytes > kMaxPackedHeaderBytes ||
        head_.header_bytes > file_.size() - sizeof(PackedHead)) {
      fail(16, fmt::format("the header size {} is impossible", head_.header_bytes));
    }
    if (head_.data_begin != round_up(sizeof(PackedHead) + head_.header_bytes, kPackedPage) ||
        head_.data_begin > file_.size()) {
      fail(32, fmt::format("the data cannot begin at {}", head_.data_begin));
    }
    if (checksum64(file_.subspan(sizeof(PackedHead), head_.header_bytes)) !=
        head_.header_checksum) {
      fail(sizeof(PackedHead), "the header is damaged (its checksum does not fit)");
    }
  }

  void read_fields(const nlohmann::json& json, PackedHeader& out) {
    read_encodings(json, out.encodings);
    out.config = packed_config_from_json(json.at("config"));
    const std::string fault = config_fault(out.config);
    if (!fault.empty()) {
      fail(sizeof(PackedHead), fmt::format("the header's config has an impossible {}", fault));
    }
    if (nlohmann::json(packed_config_to_json(out.config)) != json.at("config")) {
      fail(sizeof(PackedHead), "the header's config has a field that this build would not write");
    }
    out.data_begin = head_.data_begin;
  }

  void read_encodings(const nlohmann::json& json, PackedEncodings& out) {
    std::vector<WeightEncoding> known;
    for (const nlohmann::json& entry : json.at("encodings")) {
      const Result<WeightEncoding> encoding = encoding_from_json(entry);
      if (!encoding) fail(sizeof(PackedHead), encoding.error().message);
      known.push_back(*encoding);
    }
    if (known.empty() || known.size() > kMaxEncodings) {
      fail(sizeof(PackedHead), fmt::format("the header has {} encodings: 1 to {} are possible",
                                           known.size(), kMaxEncodings));
    }
    out.usual = known.front();
    for (const nlohmann::json& tensor : json.at("tensors")) {
      if (!tensor.contains("encoding")) continue;
      const nlohmann::json& name = tensor.at("name");
      const nlohmann::json& index = tensor.at("encoding");
      if (!index.is_number_unsigned() || index >= known.size()) {
        fail(sizeof(PackedHead), fmt::format("{} has encoding {} of {}", shown_json(name),
                                             shown_json(index), known.size()));
      }
      out.others[name.get<std::string>()] = known[index.get<size_t>()];
    }
  }

  // The layout takes memory for every block, so a header that names few must not ask for many.
  void check_n_blocks(const nlohmann::json& tensors, const ModelConfig& config) {
    int64_t n_listed = 0;
    for (const nlohmann::json& tensor : tensors) {
      n_listed += static_cast<int64_t>(tensor.at("blocks").size());
    }
    const int64_t n_blocks = n_packed_blocks(config);
    if (n_listed != n_blocks) {
      fail(sizeof(PackedHead), fmt::format("the header lists {} blocks, but the config asks for {}",
                                           n_listed, n_blocks));
    }
  }

  // Offsets and sizes follow from the config, so whatever the header says must be just that.
  void check_layout(const nlohmann::json& tensors, PackedHeader& out) {
    check_n_blocks(tensors, out.config);
    out.layout = plan_packed_layout(out.config, out.encodings);
    if (out.layout.data_bytes != file_.size() - head_.data_begin) {
      fail(head_.data_begin, fmt::format("the data has {} bytes, but the config asks for {}",
                                         file_.size() - head_.data_begin, out.layout.data_bytes));
    }
    if (tensors.size() != out.layout.tensors.size()) {
      fail(sizeof(PackedHead),
           fmt::format("the header lists {} tensors, but the config asks for {}", tensors.size(),
                       out.layout.tensors.size()));
    }
    for (size_t t = 0; t < tensors.size(); ++t) {
      const PackedTensor& expected = out.layout.tensors[t];
      const nlohmann::json& blocks = tensors.at(t).at("blocks");
      if (tensors.at(t).at("name").get<std::string>() != expected.spec.name ||
          blocks.size() != expected.blocks.size()) {
        fail(sizeof(PackedHead), fmt::format("the header's tensor {} is not \"{}\" of {} blocks", t,
                                             expected.spec.name, expected.blocks.size()));
      }
      std::vector<uint64_t>& checksums = out.checksums.emplace_back();
      for (size_t b = 0; b < blocks.size(); ++b) {
        checksums.push_back(check_block(blocks.at(b), expected, b));
      }
    }
  }

  uint64_t check_block(const nlohmann::json& block, const PackedTensor& tensor, size_t b) {
    const PackedBlock& expected = tensor.blocks[b];
    if (block.size() != 6 || block.at(0) != expected.offset || block.at(1) != expected.size_bytes ||
        block.at(2) != expected.bias_offset || block.at(3) != expected.n ||
        block.at(4) != expected.k) {
      fail(head_.data_begin + expected.offset,
           fmt::format("block {} of \"{}\" is not where it must be", b, tensor.spec.name));
    }
    const auto text = block.at(5).get<std::string>();
    if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
      fail(sizeof(PackedHead),
           fmt::format("the checksum of block {} of \"{}\" is not one", b, tensor.spec.name));
    }
    return std::stoull(text, nullptr, 16);
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  PackedHead head_;
};

}  // namespace

std::string write_packed_header(const PackedHeader& header) {
  Json encodings = Json::array();
  for (const WeightEncoding& encoding : distinct_encodings(header.encodings)) {
    encodings.push_back(encoding_to_json(encoding));
  }
  const Json json = {{"encodings", std::move(encodings)},
                     {"config", packed_config_to_json(header.config)},
                     {"tensors", tensors_to_json(header)}};
  const std::string text = json.dump();
  TRIREME_CHECK(text.size() <= kMaxPackedHeaderBytes);
  PackedHead head;
  head.magic = kPackedMagic;
  head.version = kPackedVersion;
  head.header_bytes = text.size();
  head.header_checksum = checksum64(std::as_bytes(std::span(text)));
  head.data_begin = round_up(sizeof(PackedHead) + text.size(), kPackedPage);
  head.file_bytes = head.data_begin + header.layout.data_bytes;
  std::string out(head.data_begin, '\0');
  std::memcpy(out.data(), &head, sizeof(head));
  std::memcpy(out.data() + sizeof(head), text.data(), text.size());
  return out;
}

uint64_t packed_file_bytes(const ModelConfig& config, const PackedEncodings& encodings) {
  const PackedHeader header = make_packed_header(config, encodings);
  return write_packed_header(header).size() + header.layout.data_bytes;
}

PackedHeader make_packed_header(const ModelConfig& config, const PackedEncodings& encodings) {
  PackedHeader header;
  header.config = config;
  header.encodings = encodings;
  header.layout = plan_packed_layout(config, encodings);
  for (const PackedTensor& tensor : header.layout.tensors) {
    header.checksums.emplace_back(tensor.blocks.size());
  }
  return header;
}

PackedHeader read_packed_header(std::span<const std::byte> file, const std::string& file_name) {
  return HeaderReader(file, file_name).read();
}

}  // namespace trireme
