#include "coordinator/http/infer_request.h"

#include <algorithm>

#include "coordinator/http/infer_tensor.h"
#include "coordinator/http/json_body.h"
#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

// Tensors that were taken are taken in binary too, with the same values.
void check_tensors(const std::vector<Tensor>& tensors) {
  Json inputs = Json::array();
  std::string binary;
  for (const Tensor& tensor : tensors) {
    const size_t n_before = binary.size();
    append_binary(tensor, &binary);
    inputs.push_back({{"name", tensor.name},
                      {"datatype", tensor_type_name(tensor.type)},
                      {"shape", tensor.shape},
                      {"parameters", {{"binary_data_size", binary.size() - n_before}}}});
  }
  const auto again = read_tensors(inputs, binary);
  TRIREME_CHECK_MSG(again.ok(), again.ok() ? "" : again.error().message.c_str());
  std::string binary_again;
  for (size_t i = 0; i < tensors.size(); ++i) {
    TRIREME_CHECK((*again)[i].shape == tensors[i].shape);
    append_binary((*again)[i], &binary_again);
  }
  TRIREME_CHECK(binary_again == binary);
}

void check_request(const InferRequest& request) {
  const Json& prompts = request.fields.at("prompt");
  TRIREME_CHECK(prompts.is_array() && !prompts.empty());
  for (const Json& prompt : prompts) {
    TRIREME_CHECK(prompt.is_string() == prompts.front().is_string());
    TRIREME_CHECK(prompt.is_string() || (prompt.is_array() && !prompt.empty()));
    for (const Json& id : prompt) TRIREME_CHECK(prompt.is_string() || id.is_number_integer());
  }
  (void)prompts.dump();  // throws where it is no UTF-8
  const auto& outputs = request.reply.outputs;
  TRIREME_CHECK(!outputs.empty() && outputs.size() <= infer_outputs().size());
  TRIREME_CHECK(request.reply.id.size() <= 128);
}

}  // namespace
}  // namespace trireme

// The first line is the field Inference-Header-Content-Length, the rest the body.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  const std::string_view input = fuzz::text_of(data, size);
  const size_t end = std::min(input.find('\n'), input.size());
  const std::string_view body = input.substr(std::min(end + 1, input.size()));
  const Result<InferRequest> request = read_infer_request(input.substr(0, end), body);
  if (request) {
    check_request(*request);
  } else {
    fuzz::check_message(request.error().message);
  }
  // The tensors by themselves: the bytes behind the first line that ends the JSON.
  const size_t json_end = std::min(body.find('\n'), body.size());
  const auto json = parse_json_body(body.substr(0, json_end));
  if (!json || !json->contains("inputs")) return 0;
  const auto tensors =
      read_tensors(json->at("inputs"), body.substr(std::min(json_end + 1, body.size())));
  if (tensors) {
    check_tensors(*tensors);
  } else {
    fuzz::check_message(tensors.error().message);
  }
  return 0;
}
