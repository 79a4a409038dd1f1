#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "coordinator/http/request_parsers.h"
#include "coordinator/http/tensor_reply.h"
#include "kernels/result.h"

// Private to coordinator/http: includes the JSON library.

namespace trireme {

// There is one; where a path names a version, it is this.
inline constexpr const char* kModelVersion = "1";

// A tensor as a model's metadata names it.
struct TensorInfo {
  const char* name;
  const char* datatype;
  std::vector<int64_t> shape;  // -1: any
};
std::vector<TensorInfo> infer_inputs();
std::vector<TensorInfo> infer_outputs();  // in the order of TensorReply::Output

// A request for an inference, as one for a completion and how its answer is told.
struct InferRequest {
  nlohmann::ordered_json fields;  // as in the body of POST /v1/completions
  TensorReply reply;
};

// `header_length` is the field Inference-Header-Content-Length as it came: the bytes of the JSON at
// the beginning of `body`; "": all of them.
Result<InferRequest> read_infer_request(std::string_view header_length, std::string_view body);

// InferRequest::fields.
ParsedCall parse_infer_request(const nlohmann::ordered_json& fields, const TensorReply& reply,
                               const ModelInfo& model, const TextCodec& codec);

}  // namespace trireme
