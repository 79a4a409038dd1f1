#include "tests/model/model_test_util.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>

#include "kernels/bf16.h"
#include "kernels/check.h"
#include "kernels/f16.h"
#include "model/arch_spec.h"
#include "model/model_folder.h"

namespace trireme::testing {
namespace {

namespace fs = std::filesystem;

void append(std::string& out, const std::string& dtype, float value) {
  if (dtype == "F32") {
    char bytes[4];
    std::memcpy(bytes, &value, 4);
    out.append(bytes, 4);
    return;
  }
  const uint16_t bits = dtype == "BF16" ? to_bf16(value).bits : to_f16(value).bits;
  char bytes[2];
  std::memcpy(bytes, &bits, 2);
  out.append(bytes, 2);
}

}  // namespace

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
  out.close();
  TRIREME_CHECK(out.good());
}

nlohmann::json small_config(const std::string& architecture) {
  return {{"architectures", {architecture}},
          {"hidden_size", 48},
          {"intermediate_size", 200},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 3},
          {"head_dim", 8},
          {"max_position_embeddings", 256},
          {"rms_norm_eps", 1e-5},
          {"sliding_window", nullptr},
          {"vocab_size", 1100},
          {"eos_token_id", 2}};
}

std::string safetensors_bytes(const TestTensors& tensors, const std::string& dtype) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    for (const float value : tensor.values) append(data, dtype, value);
    header[name] = {
        {"dtype", dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &size, 8);
  return out + text + data;
}

TestTensors random_weights(const fs::path& folder, uint32_t seed) {
  const ModelConfig config = read_model_config(folder);
  std::mt19937 random(seed);
  const auto fill = [&random](const std::vector<int64_t>& shape) {
    TestTensor tensor{shape, {}};
    int64_t n = 1;
    for (const int64_t dim : shape) n *= dim;
    // Multiples of 1/64 in [-2, 2): 8 significant bits, exact in bf16 and f16.
    for (int64_t i = 0; i < n; ++i) {
      tensor.values.push_back((static_cast<float>(random() % 256) - 128.0F) / 64.0F);
    }
    return tensor;
  };
  TestTensors out;
  for (const WeightSpec& spec : find_architecture(config.architecture)->weights(config)) {
    out[spec.hf_name] = fill(spec.hf_shape());
    if (!spec.hf_bias.empty()) out[spec.hf_bias] = fill({spec.n});
  }
  return out;
}

TestTensors write_model(const fs::path& folder, const nlohmann::json& config,
                        const std::string& dtype, uint32_t seed) {
  fs::create_directories(folder);
  write_file(folder / "config.json", config.dump(2));
  TestTensors weights = random_weights(folder, seed);
  write_file(folder / "model.safetensors", safetensors_bytes(weights, dtype));
  return weights;
}

}  // namespace trireme::testing
