#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/result.h"

// Private to coordinator/http: includes the JSON library.

namespace trireme {

constexpr size_t kMaxTensors = 32;  // of one request
constexpr size_t kMaxTensorRank = 8;
constexpr size_t kMaxTensorNameBytes = 128;
constexpr int64_t kMaxTensorValues = 1 << 20;  // of all tensors of one request

// The types that are taken; the Open Inference Protocol has more.
enum class TensorType : uint8_t { kBool, kInt32, kInt64, kUint32, kUint64, kFp32, kBytes };
const char* tensor_type_name(TensorType type);

// A tensor of the Open Inference Protocol.
struct Tensor {
  std::string name;
  TensorType type = TensorType::kBytes;
  std::vector<int64_t> shape;     // each at least 1 in a request's
  nlohmann::ordered_json values;  // a list, row by row: true/false, numbers of the type, strings
};

// The "inputs" of a request: values in the JSON ("data", flat or nested), or one input's after
// another's in `binary`, as Triton's binary tensor data extension has them: numbers in
// little-endian order, BYTES with a length of 4 bytes before each. All of `binary` is used. Strings
// are UTF-8. An error names input and limit.
Result<std::vector<Tensor>> read_tensors(const nlohmann::ordered_json& inputs,
                                         std::string_view binary);

// The binary form of a tensor's values.
void append_binary(const Tensor& tensor, std::string* out);

}  // namespace trireme
