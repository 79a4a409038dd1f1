#include "model/packed_header.h"

#include <cstring>
#include <optional>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "kernels/int_math.h"
#include "kernels/result.h"
#include "model/checksum.h"
#include "model/config_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

// What this version writes and reads besides; the names are there for the formats to come.
constexpr const char* kNone = "none";

std::string hex(uint64_t value) { return fmt::format("{:016x}", value); }

Json rope_to_json(const RopeConfig& r) {
  return {{"scaling", static_cast<int>(r.scaling)},
          {"theta", r.theta},
          {"factor", r.factor},
          {"original_max_position", r.original_max_position},
          {"low_freq_factor", r.low_freq_factor},
          {"high_freq_factor", r.high_freq_factor},
          {"beta_fast", r.beta_fast},
          {"beta_slow", r.beta_slow},
          {"attention_factor", r.attention_factor},
          {"mscale", r.mscale},
          {"mscale_all_dim", r.mscale_all_dim},
          {"truncate", r.truncate}};
}

Json config_to_json(const ModelConfig& c) {
  return {{"architecture", c.architecture},
          {"hidden_size", c.hidden_size},
          {"intermediate_size", c.intermediate_size},
          {"n_layers", c.n_layers},
          {"n_heads", c.n_heads},
          {"n_kv_heads", c.n_kv_heads},
          {"head_dim", c.head_dim},
          {"vocab_size", c.vocab_size},
          {"max_position", c.max_position},
          {"rms_norm_eps", c.rms_norm_eps},
          {"attention_scale", c.attention_scale},
          {"tie_embeddings", c.tie_embeddings},
          {"qkv_bias", c.qkv_bias},
          {"o_bias", c.o_bias},
          {"mlp_bias", c.mlp_bias},
          {"qk_norm", c.qk_norm},
          {"layer_window", c.layer_window},
          {"rope", rope_to_json(c.rope)},
          {"eos_token_ids", c.eos_token_ids},
          {"bos_token_id", c.bos_token_id}};
}

Json tensors_to_json(const PackedHeader& header) {
  Json tensors = Json::array();
  for (size_t t = 0; t < header.layout.tensors.size(); ++t) {
    const PackedTensor& tensor = header.layout.tensors[t];
    Json blocks = Json::array();
    for (size_t b = 0; b < tensor.blocks.size(); ++b) {
      const PackedBlock& block = tensor.blocks[b];
      blocks.push_back({block.offset, block.size_bytes, block.bias_offset, block.n, block.k,
                        hex(header.checksums[t][b])});
    }
    tensors.push_back({{"name", tensor.spec.name}, {"blocks", std::move(blocks)}});
  }
  return tensors;
}

RopeConfig rope_from_json(const nlohmann::json& j) {
  RopeConfig r;
  r.scaling = static_cast<RopeConfig::Scaling>(j.at("scaling").get<uint8_t>());
  r.theta = j.at("theta").get<double>();
  r.factor = j.at("factor").get<double>();
  r.original_max_position = j.at("original_max_position").get<int32_t>();
  r.low_freq_factor = j.at("low_freq_factor").get<double>();
  r.high_freq_factor = j.at("high_freq_factor").get<double>();
  r.beta_fast = j.at("beta_fast").get<double>();
  r.beta_slow = j.at("beta_slow").get<double>();
  r.attention_factor = j.at("attention_factor").get<double>();
  r.mscale = j.at("mscale").get<double>();
  r.mscale_all_dim = j.at("mscale_all_dim").get<double>();
  r.truncate = j.at("truncate").get<bool>();
  return r;
}

ModelConfig config_from_json(const nlohmann::json& j) {
  ModelConfig c;
  c.architecture = j.at("architecture").get<std::string>();
  c.hidden_size = j.at("hidden_size").get<int32_t>();
  c.intermediate_size = j.at("intermediate_size").get<int32_t>();
  c.n_layers = j.at("n_layers").get<int32_t>();
  c.n_heads = j.at("n_heads").get<int32_t>();
  c.n_kv_heads = j.at("n_kv_heads").get<int32_t>();
  c.head_dim = j.at("head_dim").get<int32_t>();
  c.vocab_size = j.at("vocab_size").get<int32_t>();
  c.max_position = j.at("max_position").get<int32_t>();
  c.rms_norm_eps = j.at("rms_norm_eps").get<float>();
  c.attention_scale = j.at("attention_scale").get<float>();
  c.tie_embeddings = j.at("tie_embeddings").get<bool>();
  c.qkv_bias = j.at("qkv_bias").get<bool>();
  c.o_bias = j.at("o_bias").get<bool>();
  c.mlp_bias = j.at("mlp_bias").get<bool>();
  c.qk_norm = j.at("qk_norm").get<bool>();
  c.layer_window = j.at("layer_window").get<std::vector<int32_t>>();
  c.rope = rope_from_json(j.at("rope"));
  c.eos_token_ids = j.at("eos_token_ids").get<std::vector<int32_t>>();
  c.bos_token_id = j.at("bos_token_id").get<int32_t>();
  return c;
}

std::optional<WeightFormat> format_from_name(std::string_view name) {
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
    if (name == weight_format_name(format)) return format;
  }
  return std::nullopt;
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
    throw EnvironmentError(fmt::format("{}: at byte {}: {}; delete the file to have it made again",
                                       name_, offset, what));
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
    const auto refuse = [this](const char* field) {
      fail(sizeof(PackedHead), fmt::format("this build cannot read the header's \"{}\"", field));
    };
    const auto format = format_from_name(json.at("format").get<std::string>());
    if (!format) refuse("format");
    out.format = *format;
    if (json.at("panel_columns").get<int>() != kPanelColumns) refuse("panel_columns");
    if (json.at("k_step").get<int>() != k_step(WeightFormat::kBF16)) refuse("k_step");
    if (json.at("group_size").get<int>() != 0) refuse("group_size");
    for (const char* field : {"scales", "zero_points", "sparsity"}) {
      if (json.at(field).get<std::string>() != kNone) refuse(field);
    }
    out.config = config_from_json(json.at("config"));
    const std::string fault = config_fault(out.config);
    if (!fault.empty()) {
      fail(sizeof(PackedHead), fmt::format("the header's config has an impossible {}", fault));
    }
    out.data_begin = head_.data_begin;
  }

  // Offsets and sizes follow from the config, so whatever the header says must be just that.
  void check_layout(const nlohmann::json& tensors, PackedHeader& out) {
    out.layout = plan_packed_layout(out.config, out.format);
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
    if (block.at(0).get<uint64_t>() != expected.offset ||
        block.at(1).get<uint64_t>() != expected.size_bytes ||
        block.at(2).get<uint64_t>() != expected.bias_offset ||
        block.at(3).get<int32_t>() != expected.n || block.at(4).get<int32_t>() != expected.k) {
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

const char* weight_format_name(WeightFormat format) {
  return format == WeightFormat::kF32 ? "float32" : "bfloat16";
}

std::string write_packed_header(const PackedHeader& header) {
  const Json json = {{"format", weight_format_name(header.format)},
                     {"panel_columns", kPanelColumns},
                     {"k_step", k_step(WeightFormat::kBF16)},
                     {"group_size", 0},
                     {"scales", kNone},
                     {"zero_points", kNone},
                     {"sparsity", kNone},
                     {"config", config_to_json(header.config)},
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

uint64_t packed_file_bytes(const ModelConfig& config, WeightFormat format) {
  const PackedHeader header = make_packed_header(config, format);
  return write_packed_header(header).size() + header.layout.data_bytes;
}

PackedHeader make_packed_header(const ModelConfig& config, WeightFormat format) {
  PackedHeader header;
  header.config = config;
  header.format = format;
  header.layout = plan_packed_layout(config, format);
  for (const PackedTensor& tensor : header.layout.tensors) {
    header.checksums.emplace_back(tensor.blocks.size());
  }
  return header;
}

PackedHeader read_packed_header(std::span<const std::byte> file, const std::string& file_name) {
  return HeaderReader(file, file_name).read();
}

}  // namespace trireme
