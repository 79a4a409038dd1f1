#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/f16.h"
#include "kernels/gemm_input.h"
#include "kernels/kernel_table.h"

namespace trireme::test {

// Every encoding that a kernel has a path of its own for.
inline std::vector<WeightEncoding> all_encodings() {
  return {default_encoding(WeightFormat::kF32), default_encoding(WeightFormat::kBF16),
          default_encoding(WeightFormat::kF16), default_encoding(WeightFormat::kI8),
          default_encoding(WeightFormat::kI4),  {WeightFormat::kI4, 32, true},
          {WeightFormat::kI4, 64, false},       {WeightFormat::kI4, kQuantBlock, true}};
}

inline std::string encoding_text(WeightEncoding e) {
  return "format " + std::to_string(static_cast<int>(e.format)) + " group " +
         std::to_string(e.group) + (e.has_zeros ? " with zeros" : "");
}

// A packed block and the memory behind it.
struct PackedBlock {
  std::vector<uint8_t> memory;
  std::vector<float> bias;  // [n_padded], or empty
  WeightBlock block;

  PackedBlock() = default;
  PackedBlock(PackedBlock&&) = default;
  PackedBlock& operator=(PackedBlock&&) = default;
  PackedBlock(const PackedBlock&) = delete;
  PackedBlock& operator=(const PackedBlock&) = delete;
};

// A weight [n, k] as numbers, laid out by the rules in kernels/weight.h written once more.
struct PlainWeight {
  WeightEncoding encoding;
  int32_t n = 0;
  int32_t k = 0;
  std::vector<float> numbers;  // [n, k]: values, or the stored integers
  std::vector<BF16> scales;    // [n, groups]
  std::vector<uint8_t> zeros;  // the same

  int64_t n_groups() const { return k_groups(encoding, k); }
  size_t at(int64_t row, int64_t column) const { return static_cast<size_t>(row * k + column); }

  double value(int64_t row, int64_t column) const {
    const double number = numbers[at(row, column)];
    if (!is_quantized(encoding.format)) return number;
    const auto group = static_cast<size_t>(row * n_groups() + column / encoding.group);
    const int zero = encoding.has_zeros                     ? zeros[group]
                     : encoding.format == WeightFormat::kI8 ? 128
                                                            : 8;
    return (number - zero) * static_cast<double>(to_float(scales[group]));
  }

  // Rows [begin, end) as one block.
  PackedBlock pack(int32_t begin, int32_t end) const {
    PackedBlock out;
    const BlockParts parts = block_parts_of(encoding, end - begin, k);
    out.memory.assign(static_cast<size_t>(parts.size), 0);
    const int64_t kp = k_padded(encoding.format, k);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t column = row - begin;
      for (int64_t i = 0; i < k; ++i) {
        put(out.memory, column / 16 * kp * 16, column % 16, i, numbers[at(row, i)]);
      }
      for (int64_t g = 0; g < n_groups(); ++g) {
        const auto from = static_cast<size_t>(row * n_groups() + g);
        const int64_t to = (column / 16 * n_groups() + g) * 16 + column % 16;
        std::memcpy(&out.memory[static_cast<size_t>(parts.scales + 2 * to)], &scales[from], 2);
        if (encoding.has_zeros) out.memory[static_cast<size_t>(parts.zeros + to)] = zeros[from];
      }
    }
    out.block.data = out.memory.data();
    if (n_groups() > 0) {
      out.block.scales = reinterpret_cast<const BF16*>(out.memory.data() + parts.scales);
    }
    if (encoding.has_zeros) out.block.zeros = out.memory.data() + parts.zeros;
    out.block.n = end - begin;
    out.block.k = k;
    return out;
  }

 private:
  void put(std::vector<uint8_t>& memory, int64_t panel, int64_t lane, int64_t i,
           float number) const {
    const auto store = [&](int64_t index, auto value) {
      std::memcpy(&memory[static_cast<size_t>(index) * sizeof(value)], &value, sizeof(value));
    };
    switch (encoding.format) {
      case WeightFormat::kF32: return store(panel + i * 16 + lane, number);
      case WeightFormat::kBF16:
        return store(panel + i / 2 * 32 + lane * 2 + i % 2, to_bf16(number));
      case WeightFormat::kF16: return store(panel + i * 16 + lane, to_f16(number));
      case WeightFormat::kI8:
        return store(panel + i / 4 * 64 + lane * 4 + i % 4, static_cast<uint8_t>(number));
      case WeightFormat::kI4: {
        uint8_t& both = memory[static_cast<size_t>(panel / 2 + i / 8 * 64 + lane * 4 + i % 4)];
        both = static_cast<uint8_t>(both | static_cast<int>(number) << (i % 8 < 4 ? 0 : 4));
        return;
      }
    }
  }
};

inline PlainWeight random_weight(WeightEncoding encoding, int32_t n, int32_t k,
                                 std::mt19937& random) {
  PlainWeight w{encoding, n, k, {}, {}, {}};
  std::normal_distribution<float> normal;
  const auto pick = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  for (int64_t i = 0; i < int64_t{n} * k; ++i) {
    switch (encoding.format) {
      case WeightFormat::kI8: w.numbers.push_back(static_cast<float>(pick(1, 255))); break;
      case WeightFormat::kI4: w.numbers.push_back(static_cast<float>(pick(0, 15))); break;
      default: {
        // Held exactly by bf16 and by a half.
        const float x = to_float(to_bf16(normal(random)));
        w.numbers.push_back(std::abs(x) < 0.001F ? 0.0F : x);
      }
    }
  }
  for (int64_t i = 0; i < n * w.n_groups(); ++i) {
    w.scales.push_back(to_bf16(0.01F + 0.02F * std::abs(normal(random))));
    w.zeros.push_back(static_cast<uint8_t>(pick(0, 15)));
  }
  return w;
}

// A GEMM input made by the kernels from rows of floats.
struct TestInput {
  int64_t m = 0;
  int64_t k = 0;
  std::vector<InputSpan> spans;
  std::vector<uint8_t> values;
  std::vector<float> scales;
  std::vector<int32_t> sums;
  GemmInput input;

  // `widths`: columns of each span.
  TestInput(int64_t n_rows, const std::vector<int32_t>& widths, DType dtype) : m(n_rows) {
    int64_t place = 0;
    for (const int32_t width : widths) {
      spans.push_back({static_cast<int32_t>(k), width, static_cast<int32_t>(place)});
      k += width;
      place = round_up(place + width, input_place_step(dtype));
    }
    const int64_t stride = round_up<int64_t>(place, kQuantBlock);
    values.assign(static_cast<size_t>(m * stride) * dtype_size(dtype), 0);
    scales.assign(static_cast<size_t>(m * stride / kQuantBlock), 0.0F);
    sums.assign(static_cast<size_t>(m * stride / kSumGroup), 0);
    input.values = make_tensor(values.data(), dtype, {m, k});
    input.values.row_stride = stride;
    input.scales = scales.data();
    input.sums = sums.data();
    input.spans = spans;
  }
  TestInput(const TestInput&) = delete;
  TestInput& operator=(const TestInput&) = delete;

  // What the input stands for.
  double value(int64_t row, int64_t column) const {
    size_t s = 0;
    while (column >= spans[s].column + spans[s].n) ++s;
    const int64_t at = row * input.values.row_stride + spans[s].place + column - spans[s].column;
    switch (input.values.dtype) {
      case DType::kF32: return static_cast<const float*>(input.values.data)[at];
      case DType::kBF16:
        return static_cast<double>(to_float(static_cast<const BF16*>(input.values.data)[at]));
      default:
        return static_cast<const int8_t*>(input.values.data)[at] *
               static_cast<double>(scales[static_cast<size_t>(at / kQuantBlock)]);
    }
  }

  // Rows [begin, begin + count).
  GemmInput rows(int64_t begin, int64_t count) const {
    GemmInput part = input;
    const int64_t skipped = begin * input.values.row_stride;
    part.values.data = static_cast<char*>(part.values.data) +
                       skipped * static_cast<int64_t>(dtype_size(part.values.dtype));
    part.values.shape[0] = count;
    part.scales += skipped / kQuantBlock;
    part.sums += skipped / kSumGroup;
    return part;
  }
};

}  // namespace trireme::test
