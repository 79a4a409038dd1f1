#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/kernel_table.h"

namespace trireme::test {

// Every kernel table that runs on this machine, by name.
inline std::vector<std::string> runnable_kernels() {
  std::vector<std::string> names;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    if (cpu_kernels(name) != nullptr) names.emplace_back(name);
  }
  return names;
}

inline std::string kernels_name(const testing::TestParamInfo<std::string>& param) {
  return param.param;
}

class KernelTest : public testing::TestWithParam<std::string> {
 protected:
  const KernelTable& kernels() const { return *cpu_kernels(GetParam()); }

  std::vector<float> random_floats(size_t n, float scale = 1.0F) {
    std::normal_distribution<float> normal(0.0F, scale);
    std::vector<float> out(n);
    for (float& x : out) x = normal(random_);
    return out;
  }
  // Floats that bf16 holds exactly.
  std::vector<float> random_bf16_floats(size_t n, float scale = 1.0F) {
    std::vector<float> out = random_floats(n, scale);
    for (float& x : out) x = to_float(to_bf16(x));
    return out;
  }
  std::mt19937 random_{7};
};

// A packed weight made from rows [n, k] of floats, as the model's packer lays it out.
struct PackedBlock {
  std::vector<float> f32;
  std::vector<BF16> bf16;
  std::vector<float> bias;  // [n_padded], or empty
  WeightBlock block;
};

inline PackedBlock pack_rows(const std::vector<float>& rows, int32_t n, int32_t k, int64_t stride,
                             WeightFormat format) {
  PackedBlock out;
  const int64_t kp = k_padded(format, k);
  const auto size = static_cast<size_t>(n_padded(n) * kp);
  out.f32.assign(format == WeightFormat::kF32 ? size : 0, 0.0F);
  out.bf16.assign(format == WeightFormat::kBF16 ? size : 0, BF16{});
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const float value = rows[static_cast<size_t>(i * stride + j)];
      const int64_t panel = i / kPanelColumns * kp * kPanelColumns;
      const int64_t lane = i % kPanelColumns;
      if (format == WeightFormat::kF32) {
        out.f32[static_cast<size_t>(panel + j * kPanelColumns + lane)] = value;
      } else {
        out.bf16[static_cast<size_t>(panel + j / 2 * 32 + lane * 2 + j % 2)] = to_bf16(value);
      }
    }
  }
  out.block.n = n;
  out.block.k = k;
  return out;
}

inline void point_block(PackedBlock& packed) {
  packed.block.data = packed.f32.empty() ? static_cast<const void*>(packed.bf16.data())
                                         : static_cast<const void*>(packed.f32.data());
  packed.block.bias = packed.bias.empty() ? nullptr : packed.bias.data();
}

// A GEMM input of the format's type with zeroed padding.
struct GemmInput {
  std::vector<float> f32;
  std::vector<BF16> bf16;
  Tensor tensor;
};

inline GemmInput gemm_input(const std::vector<float>& rows, int64_t m, int64_t k,
                            WeightFormat format) {
  GemmInput in;
  const int64_t stride = gemm_row_stride(k);
  in.f32.assign(static_cast<size_t>(m * stride), 0.0F);
  in.bf16.assign(static_cast<size_t>(m * stride), BF16{});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      in.f32[static_cast<size_t>(i * stride + j)] = rows[static_cast<size_t>(i * k + j)];
      in.bf16[static_cast<size_t>(i * stride + j)] = to_bf16(rows[static_cast<size_t>(i * k + j)]);
    }
  }
  in.tensor = format == WeightFormat::kF32 ? make_tensor(in.f32.data(), DType::kF32, {m, k})
                                           : make_tensor(in.bf16.data(), DType::kBF16, {m, k});
  in.tensor.row_stride = stride;
  return in;
}

}  // namespace trireme::test
