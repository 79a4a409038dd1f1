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

}  // namespace trireme::test
