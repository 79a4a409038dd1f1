#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/bf16.h"
#include "kernels/f16.h"
#include "model/checksum.h"
#include "model/pack_block.h"
#include "model/packed_folder.h"
#include "model/packed_header.h"
#include "model/packed_model.h"
#include "model/quantize.h"
#include "model/stage_weights.h"
#include "model/weight_format.h"
#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using testing::environment_error;
using ::testing::HasSubstr;

constexpr std::array kFormats = {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kF16,
                                 WeightFormat::kI8, WeightFormat::kI4};

// Number (n, k) of a block, as kernels/weight.h says where it lies.
float number(const WeightBlock& block, WeightEncoding encoding, int64_t n, int64_t k) {
  const int64_t panel = n / 16;
  const int64_t lane = n % 16;
  const int64_t padded = k_padded(encoding.format, block.k);
  const auto* bytes = static_cast<const uint8_t*>(block.data);
  const auto* halves = static_cast<const uint16_t*>(block.data);
  const auto* floats = static_cast<const float*>(block.data);
  const auto scaled = [&](int q, int center) {
    const int64_t group = (panel * k_groups(encoding, block.k) + k / encoding.group) * 16 + lane;
    return static_cast<float>(q - center) * to_float(block.scales[group]);
  };
  switch (encoding.format) {
    case WeightFormat::kF32: return floats[(panel * padded + k) * 16 + lane];
    case WeightFormat::kF16: return to_float(F16{halves[(panel * padded + k) * 16 + lane]});
    case WeightFormat::kBF16:
      return to_float(BF16{halves[((panel * padded / 2 + k / 2) * 16 + lane) * 2 + k % 2]});
    case WeightFormat::kI8:
      return scaled(bytes[((panel * padded / 4 + k / 4) * 16 + lane) * 4 + k % 4], kCenterI8);
    case WeightFormat::kI4: {
      const uint8_t both = bytes[((panel * padded / 8 + k / 8) * 16 + lane) * 4 + k % 4];
      return scaled(k % 8 < 4 ? both & 15 : both >> 4, kCenterI4);
    }
  }
  return 0.0F;
}

struct Packed {
  std::vector<std::byte> bytes;
  WeightBlock block;
};

// [n, k] numbers packed as one block that begins at (1, 3) of a larger tensor.
Packed packed_block(const std::vector<float>& values, int32_t n, int32_t k,
                    WeightEncoding encoding) {
  constexpr int32_t kRow = 1;
  constexpr int32_t kColumn = 3;
  std::vector<float> whole(static_cast<size_t>((n + kRow) * (k + kColumn)), 1e30F);
  for (int32_t i = 0; i < n; ++i) {
    std::copy_n(values.begin() + i * k, k, whole.begin() + (i + kRow) * (k + kColumn) + kColumn);
  }
  SourceTensor source;
  source.dtype = SourceDType::kF32;
  source.shape = {n + kRow, k + kColumn};
  source.data = reinterpret_cast<const std::byte*>(whole.data());
  const BlockParts parts = block_parts_of(encoding, n, k);
  Packed out;
  out.bytes.assign(static_cast<size_t>(parts.size), std::byte{0x55});
  EXPECT_FALSE(pack_panels(source, {.n = n, .k = k, .n_begin = kRow, .k_begin = kColumn}, encoding,
                           out.bytes));
  out.block.data = out.bytes.data();
  out.block.scales = reinterpret_cast<const BF16*>(out.bytes.data() + parts.scales);
  out.block.n = n;
  out.block.k = k;
  return out;
}

// One column's numbers as a format gives them back, by the quantizers alone.
std::vector<float> expected_column(const float* column, int64_t k, WeightEncoding encoding) {
  std::vector<float> out(column, column + k);
  if (encoding.format == WeightFormat::kBF16) {
    for (float& x : out) x = to_float(to_bf16(x));
  }
  if (encoding.format == WeightFormat::kF16) {
    for (float& x : out) x = to_float(to_f16(x));
  }
  for (int64_t begin = 0; encoding.group != 0 && begin < k; begin += encoding.group) {
    const int64_t size = std::min<int64_t>(encoding.group, k - begin);
    std::vector<float> x(static_cast<size_t>(size * kPanelColumns));
    for (int64_t j = 0; j < size; ++j)
      x[static_cast<size_t>(j * kPanelColumns)] = column[begin + j];
    std::vector<uint8_t> q(x.size());
    std::array<BF16, kPanelColumns> scales{};
    const bool is_int8 = encoding.format == WeightFormat::kI8;
    (is_int8 ? quantize_int8 : quantize_int4)(x.data(), size, q.data(), scales.data());
    for (int64_t j = 0; j < size; ++j) {
      const int level = q[static_cast<size_t>(j * kPanelColumns)] - (is_int8 ? 128 : 8);
      out[static_cast<size_t>(begin + j)] = static_cast<float>(level) * to_float(scales[0]);
    }
  }
  return out;
}

TEST(PackedFormats, EveryNumberIsWhereTheKernelsReadIt) {
  std::mt19937 random(7);
  for (const WeightFormat format : kFormats) {
    const WeightEncoding encoding = default_encoding(format);
    for (const auto& [n, k] : {std::pair{1, 1}, {16, 8}, {19, 33}, {5, 300}, {40, 517}}) {
      SCOPED_TRACE(::testing::Message() << weight_format_name(format) << " " << n << "x" << k);
      std::vector<float> values(static_cast<size_t>(n * k));
      for (float& x : values) x = static_cast<float>(random() >> 8) * 0x1p-24F - 0.4F;
      const Packed packed = packed_block(values, n, k, encoding);
      for (int64_t row = 0; row < n_padded(n); ++row) {
        const std::vector<float> zeros(static_cast<size_t>(k));
        const float* column = row < n ? values.data() + row * k : zeros.data();
        const std::vector<float> expected = expected_column(column, k, encoding);
        for (int64_t j = 0; j < k; ++j) {
          ASSERT_EQ(number(packed.block, encoding, row, j), expected[static_cast<size_t>(j)])
              << row << ", " << j;
        }
        for (int64_t j = k; j < k_padded(format, k); ++j) {
          ASSERT_EQ(number(packed.block, encoding, row, j), 0.0F) << row << ", " << j;
        }
      }
    }
  }
}

TEST(PackedFormats, ANumberThatDoesNotFitIsTold) {
  const testing::TempFolder folder;
  testing::write_model(folder.path(), testing::small_config("LlamaForCausalLM"), "F32");
  auto weights = testing::random_weights(folder.path(), 1);
  const auto error = [&](float value, WeightFormat format) {
    auto& down = weights.at("model.layers.1.mlp.down_proj.weight");
    down.values[static_cast<size_t>(2 * down.shape[1] + 70)] = value;
    testing::write_file(folder.path() / "model.safetensors",
                        testing::safetensors_bytes(weights, "F32"));
    return environment_error(
        [&] { pack_model(folder.path(), folder.path() / "packed", format, {}); });
  };
  const float infinity = std::numeric_limits<float>::infinity();
  const auto names_it =
      AllOf(HasSubstr(folder.path().string()), HasSubstr("model.layers.1.mlp.down_proj.weight"),
            HasSubstr("at [2, 70]"), HasSubstr("pack it as bfloat16"));
  EXPECT_EQ(error(65519.0F, WeightFormat::kF16), "");
  EXPECT_THAT(error(-65520.0F, WeightFormat::kF16), AllOf(names_it, HasSubstr("-65520")));
  EXPECT_EQ(error(1e30F, WeightFormat::kI8), "");
  EXPECT_THAT(error(infinity, WeightFormat::kI8), AllOf(names_it, HasSubstr("int8")));
  EXPECT_THAT(error(std::nanf(""), WeightFormat::kI4), AllOf(names_it, HasSubstr("int4")));
  EXPECT_EQ(error(infinity, WeightFormat::kBF16), "");
}

// Another encoding for the vocabulary than for the layers.
TEST(PackedFormats, TensorsMayDiffer) {
  const testing::TempFolder folder;
  auto config = testing::small_config("LlamaForCausalLM");
  config["tie_word_embeddings"] = true;
  testing::write_model(folder.path(), config);
  PackedEncodings encodings = WeightFormat::kI4;
  encodings.others["embedding"] = default_encoding(WeightFormat::kI8);
  encodings.others["layers.1.o"] = default_encoding(WeightFormat::kF16);
  encodings.others["layers.0.v"] = default_encoding(WeightFormat::kI8);
  pack_model(folder.path(), folder.path() / "packed", encodings, {});
  const auto file = PackedModel::open(folder.path() / "packed");
  file->verify({});
  EXPECT_EQ(file->format(), WeightFormat::kI4);
  EXPECT_EQ(file->encoding("lm_head").format, WeightFormat::kI8);
  EXPECT_EQ(encodings_text(file->encodings()),
            "int4/32,embedding=int8/256,layers.0.v=int8/256,layers.1.o=float16");
  const StageWeights got = map_stage_weights(file, *make_shard_plan(file->config(), {2, 1}, 1), {});
  EXPECT_EQ(got.lm_head.encoding, default_encoding(WeightFormat::kI8));
  EXPECT_NE(got.lm_head.blocks[0].scales, nullptr);
  EXPECT_EQ(got.layers[1].o.format(), WeightFormat::kF16);
  EXPECT_EQ(got.layers[1].o.blocks[0].scales, nullptr);
  EXPECT_EQ(got.layers[1].q.format(), WeightFormat::kI4);
  EXPECT_EQ(got.layers[0].v.format(), WeightFormat::kI8);
  EXPECT_EQ(got.layers[0].v.blocks[0].zeros, nullptr);
}

TEST(PackedFormats, NamesGoBothWays) {
  for (const WeightFormat format : kFormats) {
    EXPECT_EQ(parse_weight_format("--dtype", weight_format_name(format)), format);
    EXPECT_THAT(kWeightFormatNames, HasSubstr(weight_format_name(format)));
  }
  EXPECT_EQ(find_weight_format("bf16"), WeightFormat::kBF16);
  EXPECT_EQ(find_weight_format("fp16"), WeightFormat::kF16);
  EXPECT_THAT(environment_error([] { parse_weight_format("--dtype", "int3"); }),
              HasSubstr("--dtype int3 is unknown: use bfloat16, float16, int8, int4 or float32"));
}

TEST(PackedFolder, IsAModelOfItsOwn) {
  const testing::TempFolder folder;
  const auto source = folder.path() / "source";
  testing::write_model(source, testing::small_config("LlamaForCausalLM"));
  testing::write_file(source / "tokenizer.json", "{}");
  const auto file = pack_model_to(source, folder.path() / "a/b", WeightFormat::kI8, {});
  EXPECT_EQ(file, folder.path() / "a/b/weights.trireme");
  EXPECT_EQ(testing::read_file(folder.path() / "a/b/tokenizer.json"), "{}");
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "a/b/config.json"));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "a/b/model.safetensors"));
  EXPECT_EQ(model_place(folder.path() / "a/b").packed, file);
  EXPECT_EQ(model_place(source).packed, "");
  EXPECT_EQ(model_place(file).folder, folder.path() / "a/b");
  EXPECT_EQ(pack_model_to(source, folder.path() / "x.trireme", WeightFormat::kI8, {}),
            folder.path() / "x.trireme");
  EXPECT_EQ(testing::read_file(folder.path() / "x.trireme"), testing::read_file(file));
  EXPECT_THAT(environment_error([&] { pack_model_to(source, source, WeightFormat::kI8, {}); }),
              HasSubstr("holds a model already (model.safetensors)"));
}

// A file whose header says anything, with checksum and sizes that fit.
class ForgedHeader : public ::testing::Test {
 protected:
  void SetUp() override {
    auto config = testing::small_config("Qwen2ForCausalLM");
    config["num_hidden_layers"] = 1;
    config["vocab_size"] = 40;
    config["hidden_size"] = 6;
    testing::write_model(folder_.path(), config);
    PackedEncodings encodings = WeightFormat::kI4;
    encodings.others["embedding"] = default_encoding(WeightFormat::kI8);
    pack_model(folder_.path(), path_, encodings, {});
    whole_ = testing::read_file(path_);
    std::memcpy(&head_, whole_.data(), sizeof(head_));
    json_ = whole_.substr(sizeof(head_), head_.header_bytes);
  }
  std::string open_error(const std::string& json) {
    PackedHead head = head_;
    head.header_bytes = json.size();
    head.header_checksum = checksum64(std::as_bytes(std::span(json)));
    head.data_begin = round_up(sizeof(head) + json.size(), kPackedPage);
    head.file_bytes = head.data_begin + (whole_.size() - head_.data_begin);
    std::string bytes(head.data_begin, '\0');
    std::memcpy(bytes.data(), &head, sizeof(head));
    std::copy(json.begin(), json.end(), bytes.begin() + sizeof(head));
    bytes += whole_.substr(head_.data_begin);
    return environment_error(
        [&] { read_packed_header(std::as_bytes(std::span(bytes)), "f.trireme"); });
  }
  std::string replaced(const std::string& from, const std::string& to) const {
    std::string out = json_;
    const size_t at = out.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return out.replace(at, from.size(), to);
  }

  testing::TempFolder folder_;
  std::filesystem::path path_ = folder_.path() / "packed.trireme";
  std::string whole_;
  std::string json_;
  PackedHead head_;
};

TEST_F(ForgedHeader, WhatIsUnknownIsRefusedByName) {
  ASSERT_EQ(open_error(json_), "");
  const std::array<std::array<const char*, 3>, 9> cases = {{
      {R"("format":"int4")", R"("format":"q4_k")", R"("format" "q4_k")"},
      {R"("group_size":32)", R"("group_size":64)", R"("group_size" 64)"},
      {R"("scales":"bf16")", R"("scales":"float8")", R"("scales" "float8")"},
      {R"("zero_points":"none")", R"("zero_points":"int3")", R"("zero_points" "int3")"},
      {R"("sparsity":"none")", R"("sparsity":"2:4")", R"("sparsity" "2:4")"},
      {R"("layout":"panels")", R"("layout":"tiles")", R"("layout" "tiles")"},
      {R"("panel_columns":16)", R"("panel_columns":32)", R"("panel_columns" 32)"},
      {R"("k_step":8)", R"("k_step":16)", R"("k_step" 16)"},
      {R"("k_step":8)", R"("k_step":8,"codebook":1)", R"("codebook" 1)"},
  }};
  for (const auto& [from, to, said] : cases) {
    EXPECT_THAT(open_error(replaced(from, to)),
                AllOf(HasSubstr("f.trireme"), HasSubstr("this build cannot read"), HasSubstr(said),
                      HasSubstr("trireme pack MODEL f.trireme --format")));
  }
  EXPECT_THAT(open_error(replaced(R"("encoding":1)", R"("encoding":2)")),
              HasSubstr("\"embedding\" has encoding 2 of 2"));
  // Whole, and of another size than its encoding asks for.
  EXPECT_THAT(open_error(replaced(R"("encoding":1,)", "")), HasSubstr("the config asks for"));
}

TEST_F(ForgedHeader, ARefusalIsOneShortLine) {
  const std::string odd = R"("a\n)" + std::string(9000, 'b') + '"';
  for (const std::string& json :
       {replaced(R"("sparsity":"none")", R"("sparsity":)" + odd),
        replaced(R"("k_step":8)", R"("k_step":8,)" + odd + ":" + odd),
        replaced(R"("name":"embedding","encoding":1)", R"("name":)" + odd + R"(,"encoding":2)"),
        replaced(R"("encoding":1)", R"("encoding":)" + odd)}) {
    const std::string error = open_error(json);
    EXPECT_THAT(error, HasSubstr("trireme pack MODEL"));
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    EXPECT_LT(error.size(), 500U);
  }
}

TEST_F(ForgedHeader, ZeroPointsAreReadable) {
  // The blocks of int4 are longer with them, so the sizes no longer fit: but the encoding does.
  EXPECT_THAT(open_error(replaced(R"("zero_points":"none")", R"("zero_points":"uint8")")),
              HasSubstr("the config asks for"));
}

// Each number of the header as far out as it can be written.
TEST_F(ForgedHeader, NumbersThatDoNotFitAreRefused) {
  const std::array<const char*, 11> extremes = {"0",
                                                "-1",
                                                "2147483648",
                                                "9223372036854775807",
                                                "9223372036854775808",
                                                "-9223372036854775808",
                                                "18446744073709551615",
                                                "1e300",
                                                "-1e300",
                                                "0.5",
                                                "null"};
  const auto json = nlohmann::json::parse(json_);
  const std::vector<std::string> places = [&] {
    std::vector<std::string> out;
    const nlohmann::json flat = json.flatten();
    for (const auto& [path, value] : flat.items()) {
      if (value.is_number() && path.find("rope") == std::string::npos) out.push_back(path);
    }
    return out;
  }();
  ASSERT_GT(places.size(), 100U);
  for (const std::string& place : places) {
    const nlohmann::json::json_pointer at(place);
    std::vector<nlohmann::json> values;
    for (const char* extreme : extremes) values.push_back(nlohmann::json::parse(extreme));
    if (json[at].is_number_integer()) {  // that are the same in the low 32 bits
      for (const int shift : {32, 62}) {
        values.push_back(json[at].get<int64_t>() + (int64_t{1} << shift));
      }
    }
    for (const nlohmann::json& value : values) {
      const bool is_scale = place == "/config/attention_scale";
      const bool is_token = place.find("token_id") != std::string::npos;
      if (value == json[at] || (is_scale && value == 0.5) || (is_token && value == 0)) continue;
      nlohmann::json changed = json;
      changed[at] = value;
      EXPECT_THAT(open_error(changed.dump()), HasSubstr("trireme pack MODEL")) << place << value;
    }
  }
}

TEST_F(ForgedHeader, SizesOfTheHeadThatDoNotFitAreRefused) {
  const std::array<uint64_t, 6> extremes = {
      0, 1, uint64_t{1} << 62, (uint64_t{1} << 63) - 1, uint64_t{1} << 63, ~uint64_t{0}};
  for (uint64_t PackedHead::*field :
       {&PackedHead::header_bytes, &PackedHead::data_begin, &PackedHead::file_bytes}) {
    for (const uint64_t value : extremes) {
      PackedHead head = head_;
      head.*field = value;
      std::memcpy(whole_.data(), &head, sizeof(head));
      EXPECT_THAT(environment_error(
                      [&] { read_packed_header(std::as_bytes(std::span(whole_)), "f.trireme"); }),
                  HasSubstr("f.trireme: at byte "))
          << value;
    }
  }
}

TEST_F(ForgedHeader, ListsOfAnotherLengthAreRefused) {
  const auto json = nlohmann::json::parse(json_);
  const auto refuses = [&](const char* place, const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json changed = json;
    change(changed[nlohmann::json::json_pointer(place)]);
    EXPECT_THAT(open_error(changed.dump()), HasSubstr("trireme pack MODEL")) << place;
  };
  const auto longer = [](nlohmann::json& list) {
    const nlohmann::json last = list.back();
    for (int i = 0; i < 1000; ++i) list.push_back(last);
  };
  const auto twice = [](nlohmann::json& list) { list.push_back(list.back()); };
  const auto empty = [](nlohmann::json& list) { list = nlohmann::json::array(); };
  for (const char* place : {"/encodings", "/config/layer_window", "/tensors", "/tensors/0/blocks",
                            "/tensors/0/blocks/0"}) {
    refuses(place, longer);
    refuses(place, empty);
    if (place != std::string_view("/encodings")) refuses(place, twice);
  }
  refuses("/config/eos_token_ids", [](nlohmann::json& list) { list = std::vector<int>(1000, 1); });
  refuses("/config", [](nlohmann::json& config) { config["n_experts"] = 8; });
  // Blocks that lie over each other.
  refuses("/tensors",
          [](nlohmann::json& tensors) { tensors[1]["blocks"][0][0] = tensors[0]["blocks"][0][0]; });
}

TEST_F(ForgedHeader, RandomMutationsOpenOrNameTheFile) {
  std::mt19937 random(17);
  const std::string characters = "0123456789-.,:\"{}[]etrufalsn ";
  int n_refused = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string json = json_;
    for (uint32_t change = random() % 3 + 1; change > 0; --change) {
      const size_t at = random() % json.size();
      switch (random() % 4) {
        case 0: json[at] = characters[random() % characters.size()]; break;
        case 1: json[at] = static_cast<char>(random()); break;
        case 2: json.erase(at, random() % 40); break;
        default: json.insert(at, json.substr(random() % json.size(), random() % 40)); break;
      }
    }
    const std::string error = open_error(json);
    if (error.empty()) continue;
    ++n_refused;
    ASSERT_THAT(error, HasSubstr("f.trireme")) << json;
    ASSERT_EQ(error.find('\n'), std::string::npos) << error;
  }
  EXPECT_GT(n_refused, 1000);
}

}  // namespace
}  // namespace trireme
