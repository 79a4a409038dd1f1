#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/result.h"
#include "tests/temp_folder.h"

namespace trireme::testing {

using trireme::TempFolder;

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& bytes);

// What an EnvironmentError says; "" when nothing is thrown.
template <typename F>
std::string environment_error(const F& f) {
  try {
    f();
  } catch (const EnvironmentError& e) {
    return e.what();
  }
  return "";
}

// A small config.json of an architecture, with nothing optional in it.
nlohmann::json small_config(const std::string& architecture);

struct TestTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using TestTensors = std::map<std::string, TestTensor>;

// Bytes of a safetensors file. dtype: "F32", "F16" or "BF16"; values must be exact in it.
std::string safetensors_bytes(const TestTensors& tensors, const std::string& dtype);

// Random weights for the model folder's config.json, exact in every dtype.
TestTensors random_weights(const std::filesystem::path& folder, uint32_t seed);

// Writes config.json and model.safetensors; returns the weights.
TestTensors write_model(const std::filesystem::path& folder, const nlohmann::json& config,
                        const std::string& dtype = "BF16", uint32_t seed = 1);

}  // namespace trireme::testing
