#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/bf16.h"
#include "kernels/f16.h"
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
  std::filesystem::create_directory(source / "1_Pooling");
  testing::write_file(source / "1_Pooling/config.json", "{}");
  const auto file = pack_model_to(source, folder.path() / "a/b", WeightFormat::kI8, {});
  EXPECT_EQ(file, folder.path() / "a/b/weights.trireme");
  EXPECT_EQ(testing::read_file(folder.path() / "a/b/tokenizer.json"), "{}");
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "a/b/config.json"));
  EXPECT_EQ(testing::read_file(folder.path() / "a/b/1_Pooling/config.json"), "{}");
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

}  // namespace
}  // namespace trireme
