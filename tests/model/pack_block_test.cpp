#include "model/pack_block.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/bf16.h"

namespace trireme {
namespace {

SourceTensor source_of(const std::vector<std::byte>& bytes, SourceDType dtype,
                       std::vector<int64_t> shape) {
  SourceTensor out;
  out.dtype = dtype;
  out.shape = std::move(shape);
  out.data = bytes.data() + 1;  // at no alignment
  out.size_bytes = bytes.size() - 1;
  return out;
}

template <typename T>
std::vector<std::byte> unaligned_bytes(const std::vector<T>& values) {
  std::vector<std::byte> out(1 + values.size() * sizeof(T));
  std::memcpy(out.data() + 1, values.data(), values.size() * sizeof(T));
  return out;
}

// A block in the middle of a source whose values are all different, of odd n and k.
TEST(PackBlock, PanelsHoldTheBlockAndZeros) {
  constexpr int32_t kRows = 40;
  constexpr int32_t kInputs = 9;
  std::vector<float> values;
  for (int32_t i = 0; i < kRows * kInputs; ++i) values.push_back(static_cast<float>(i) + 0.015F);
  const auto bytes = unaligned_bytes(values);
  const SourceTensor source = source_of(bytes, SourceDType::kF32, {kRows, kInputs});
  PackedBlock block;
  block.n = 19;
  block.k = 5;
  block.n_begin = 20;
  block.k_begin = 3;
  const auto expected = [&](int64_t n, int64_t k) {
    if (n >= block.n || k >= block.k) return 0.0F;
    return values[static_cast<size_t>((block.n_begin + n) * kInputs + block.k_begin + k)];
  };

  std::vector<float> f32(32 * 6, -1.0F);
  EXPECT_FALSE(pack_panels(source, block, default_encoding(WeightFormat::kF32),
                           std::as_writable_bytes(std::span(f32))));
  std::vector<BF16> bf16(32 * 6, BF16{0xffff});
  EXPECT_FALSE(pack_panels(source, block, default_encoding(WeightFormat::kBF16),
                           std::as_writable_bytes(std::span(bf16))));
  for (int64_t n = 0; n < 32; ++n) {
    for (int64_t k = 0; k < 6; ++k) {
      EXPECT_EQ(f32[static_cast<size_t>((n / 16 * 6 + k) * 16 + n % 16)], expected(n, k));
      const auto at = static_cast<size_t>(((n / 16 * 3 + k / 2) * 16 + n % 16) * 2 + k % 2);
      EXPECT_EQ(bf16[at].bits, to_bf16(expected(n, k)).bits);
    }
  }
}

TEST(PackBlock, VectorsOfEveryType) {
  const std::vector<float> expected = {0.0F, 0.0F, 1.5F, -2.0F, 0.0F};
  const auto expect_packed = [&](const std::vector<std::byte>& bytes, SourceDType dtype) {
    std::vector<float> out = {9.0F, 9.0F, 9.0F};
    pack_vector(source_of(bytes, dtype, {5}), 2, 2, out);
    EXPECT_EQ(out, (std::vector<float>{1.5F, -2.0F, 0.0F}));
  };
  expect_packed(unaligned_bytes(expected), SourceDType::kF32);
  expect_packed(unaligned_bytes(std::vector<uint16_t>{0, 0, 0x3e00, 0xc000, 0}), SourceDType::kF16);
  expect_packed(unaligned_bytes(std::vector<uint16_t>{0, 0, 0x3fc0, 0xc000, 0}),
                SourceDType::kBF16);
}

}  // namespace
}  // namespace trireme
