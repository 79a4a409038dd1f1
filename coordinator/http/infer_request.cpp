#include "coordinator/http/infer_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "coordinator/http/generation_fields.h"
#include "coordinator/http/infer_tensor.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/reply_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using MaybeError = std::optional<Error>;

// Inputs that are a field of the same name.
constexpr std::array<std::string_view, 7> kFieldInputs = {
    "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream"};

Result<std::string_view> json_part(std::string_view header_length, std::string_view body) {
  if (header_length.empty()) return body;
  size_t n_bytes = 0;
  const char* end = header_length.data() + header_length.size();
  const auto [at, ec] = std::from_chars(header_length.data(), end, n_bytes);
  if (ec == std::errc() && at == end && n_bytes <= body.size()) return body.substr(0, n_bytes);
  return Error{fmt::format("Inference-Header-Content-Length must be the number of bytes of the "
                           "JSON, at most the body's {}, not {}",
                           body.size(), shown(Json(header_length))),
               "Inference-Header-Content-Length"};
}

MaybeError give(Json* fields, const std::string& name, Json value) {
  if (name == "prompt") {
    return Error{"the prompt is the input text_input or input_ids, and no parameter", name};
  }
  if (fields->contains(name)) return Error{shown(Json(name)) + " is given twice", "parameters"};
  (*fields)[name] = std::move(value);
  return std::nullopt;
}

MaybeError check_scalar(const Tensor& tensor) {
  if (tensor.values.size() == 1) return std::nullopt;
  return Error{fmt::format("{} must have one value for all prompts, not {}", tensor.name,
                           tensor.values.size()),
               tensor.name};
}

// ---- the request's inputs ----

class Inputs {
 public:
  explicit Inputs(InferRequest* request) : request_(request) {}

  MaybeError take(Tensor tensor) {
    if (tensor.name == "text_input") return keep(std::move(tensor), &texts_);
    if (tensor.name == "input_ids") return keep(std::move(tensor), &ids_);
    if (tensor.name == "input_lengths") return keep(std::move(tensor), &lengths_);
    if (tensor.name == "sampling_parameters") return take_object(tensor);
    if (tensor.name == "exclude_input_in_output") {
      if (auto error = check_scalar(tensor)) return error;
      const Json& value = tensor.values.front();
      if (!value.is_boolean()) return Error{tensor.name + " must be of BOOL", tensor.name};
      return give(&request_->fields, "echo", !value.get<bool>());
    }
    if (std::find(kFieldInputs.begin(), kFieldInputs.end(), tensor.name) != kFieldInputs.end()) {
      if (tensor.name == "stop") return give(&request_->fields, tensor.name, tensor.values);
      if (auto error = check_scalar(tensor)) return error;
      return give(&request_->fields, tensor.name, tensor.values.front());
    }
    return Error{fmt::format("there is no input {}; GET /v2/models/{{model}} lists them",
                             shown(Json(tensor.name))),
                 "inputs"};
  }

  // Once all are taken.
  MaybeError make_prompts() {
    if (texts_.has_value() == ids_.has_value()) {
      return Error{"inputs must have text_input or input_ids, one of them", "inputs"};
    }
    if (lengths_ && !ids_) return Error{"input_lengths belongs to input_ids", "input_lengths"};
    return texts_ ? make_text_prompts() : make_id_prompts();
  }

 private:
  static MaybeError keep(Tensor tensor, std::optional<Tensor>* place) {
    if (*place) return Error{tensor.name + " is given twice", tensor.name};
    *place = std::move(tensor);
    return std::nullopt;
  }

  // Of vLLM's back end in Triton: a JSON object as text.
  MaybeError take_object(const Tensor& tensor) {
    if (auto error = check_scalar(tensor)) return error;
    if (tensor.type != TensorType::kBytes) return Error{tensor.name + " must be of BYTES", ""};
    Result<Json> object = parse_json_body(tensor.values.front().get_ref<const std::string&>());
    if (!object) return Error{"sampling_parameters: " + object.error().message, tensor.name};
    for (auto& [name, value] : object->items()) {
      if (auto error = give(&request_->fields, name, value)) return error;
    }
    return std::nullopt;
  }

  static bool is_column(const Tensor& tensor) {
    return tensor.shape.size() == 2 && tensor.shape[1] == 1;
  }

  MaybeError make_text_prompts() {
    if (texts_->type != TensorType::kBytes) {
      return Error{
          fmt::format("text_input must be of BYTES, not {}", tensor_type_name(texts_->type)),
          "text_input"};
    }
    if (texts_->shape.size() != 1 && !is_column(*texts_)) {
      return Error{"text_input must have the shape [n] or [n, 1]", "text_input"};
    }
    request_->reply.column = is_column(*texts_);
    request_->fields["prompt"] = std::move(texts_->values);
    return std::nullopt;
  }

  static bool is_integers(const Tensor& tensor) {
    return tensor.type == TensorType::kInt32 || tensor.type == TensorType::kInt64;
  }

  MaybeError make_id_prompts() {
    if (!is_integers(*ids_)) {
      return Error{
          fmt::format("input_ids must be of INT32 or INT64, not {}", tensor_type_name(ids_->type)),
          "input_ids"};
    }
    if (ids_->shape.size() > 2) {
      return Error{"input_ids must have the shape [n_tokens] or [n, n_tokens]", "input_ids"};
    }
    const bool one_row = ids_->shape.size() == 1;
    const int64_t n_rows = one_row ? 1 : ids_->shape[0];
    const int64_t row_size = ids_->shape.back();
    if (lengths_) {
      if (auto error = check_lengths(n_rows, row_size)) return error;
      request_->reply.column = is_column(*lengths_);
    }
    Json prompts = Json::array();
    for (int64_t row = 0; row < n_rows; ++row) {
      const auto begin = ids_->values.begin() + row * row_size;
      const auto n_ids =
          lengths_ ? lengths_->values[static_cast<size_t>(row)].get<int64_t>() : row_size;
      Json prompt = Json::array();
      for (auto id = begin; id != begin + n_ids; ++id) prompt.push_back(std::move(*id));
      prompts.push_back(std::move(prompt));
    }
    request_->fields["prompt"] = std::move(prompts);
    request_->reply.one_row = one_row;
    request_->reply.int64_ids = ids_->type == TensorType::kInt64;
    return std::nullopt;
  }

  MaybeError check_lengths(int64_t n_rows, int64_t row_size) const {
    const bool good_shape = lengths_->shape.size() == 1 || is_column(*lengths_);
    if (!is_integers(*lengths_) || !good_shape || lengths_->shape[0] != n_rows) {
      return Error{fmt::format("input_lengths must be of INT32 or INT64, with the shape [{0}] or "
                               "[{0}, 1] for these input_ids",
                               n_rows),
                   "input_lengths"};
    }
    for (const Json& length : lengths_->values) {
      if (length.get<int64_t>() >= 1 && length.get<int64_t>() <= row_size) continue;
      return Error{fmt::format("each of input_lengths must be between 1 and {}, not {}", row_size,
                               shown(length)),
                   "input_lengths"};
    }
    return std::nullopt;
  }

  InferRequest* request_;
  std::optional<Tensor> texts_;    // [n] or [n, 1]
  std::optional<Tensor> ids_;      // [n_tokens] or [n, n_tokens]
  std::optional<Tensor> lengths_;  // [n] or [n, 1]
};

// ---- the outputs that are wanted ----

// One of "outputs". `binary`: what holds where it does not say.
MaybeError read_output(const Json& item, size_t index, bool binary, TensorReply* reply) {
  const std::string prefix = fmt::format("outputs[{}]", index);
  if (!item.is_object()) {
    return Error{fmt::format("{} must be an object, not {}", prefix, shown(item)), "outputs"};
  }
  JsonFields fields(item, prefix + ".");
  const std::string name = fields.string("name", "");
  const Json* parameters = fields.object("parameters");
  if (fields.error()) return fields.error();
  if (parameters != nullptr) {
    for (const auto& [parameter, value] : parameters->items()) {
      if (parameter == "binary_data" && value.is_boolean()) {
        binary = value.get<bool>();
        continue;
      }
      return Error{fmt::format("{}.parameters has {} = {}; only binary_data is taken, true or "
                               "false",
                               prefix, shown(Json(parameter)), shown(value)),
                   "outputs"};
    }
  }
  const std::vector<TensorInfo> known = infer_outputs();
  const auto found = std::find_if(known.begin(), known.end(),
                                  [&](const TensorInfo& info) { return name == info.name; });
  if (found == known.end()) {
    return Error{fmt::format("there is no output {}; GET /v2/models/{{model}} lists them",
                             shown(Json(name))),
                 "outputs"};
  }
  const auto output = static_cast<TensorReply::Output>(found - known.begin());
  for (const TensorReply::Wanted& other : reply->outputs) {
    if (other.output == output) return Error{"the output " + name + " is wanted twice", "outputs"};
  }
  reply->outputs.push_back({.output = output, .binary = binary});
  return std::nullopt;
}

// Without any: what corresponds to the input.
MaybeError read_outputs(const Json* outputs, bool binary, bool text, TensorReply* reply) {
  using enum TensorReply::Output;
  if (outputs == nullptr || (outputs->is_array() && outputs->empty())) {
    reply->outputs = text ? std::vector<TensorReply::Wanted>{{kText, binary}}
                          : std::vector<TensorReply::Wanted>{{kIds, binary}, {kLengths, binary}};
    return std::nullopt;
  }
  if (!outputs->is_array()) {
    return Error{fmt::format("outputs must be a list of objects, not {}", shown(*outputs)),
                 "outputs"};
  }
  for (size_t i = 0; i < outputs->size(); ++i) {
    if (auto error = read_output((*outputs)[i], i, binary, reply)) return error;
  }
  return std::nullopt;
}

// What the request says beside its tensors. `binary`: of the outputs that do not say.
MaybeError read_parameters(JsonFields& body, InferRequest* request, bool* binary) {
  request->reply.id = body.string("id", "");
  if (request->reply.id.size() > kMaxRequestIdBytes) {
    body.fail("id", fmt::format("id must have at most {} bytes, not {}", kMaxRequestIdBytes,
                                request->reply.id.size()));
  }
  const Json* parameters = body.object("parameters");
  if (body.error()) return body.error();
  request->fields = Json::object();
  if (parameters == nullptr) return std::nullopt;
  JsonFields fields(*parameters);
  *binary = fields.boolean("binary_data_output", false);
  if (fields.error()) return fields.error();
  for (const auto& [name, value] : parameters->items()) {
    if (name == "sequence_id" && value != 0 && value != "") {
      return Error{"sequence_id is not supported: each request stands alone", name};
    }
    if (name == "binary_data_output") continue;
    if (auto error = give(&request->fields, name, value)) return error;
  }
  return std::nullopt;
}

}  // namespace

std::vector<TensorInfo> infer_inputs() {
  return {{"text_input", "BYTES", {-1}},
          {"input_ids", "INT32", {-1, -1}},
          {"input_lengths", "INT32", {-1}},
          {"sampling_parameters", "BYTES", {1}},
          {"exclude_input_in_output", "BOOL", {1}},
          {"max_tokens", "INT32", {1}},
          {"temperature", "FP32", {1}},
          {"top_p", "FP32", {1}},
          {"top_k", "INT32", {1}},
          {"seed", "INT64", {1}},
          {"stop", "BYTES", {-1}},
          {"stream", "BOOL", {1}}};
}

std::vector<TensorInfo> infer_outputs() {
  return {{"text_output", "BYTES", {-1}},
          {"output_ids", "INT32", {-1, -1}},
          {"output_lengths", "INT32", {-1}},
          {"finish_reason", "BYTES", {-1}}};
}

Result<InferRequest> read_infer_request(std::string_view header_length, std::string_view body) {
  const Result<std::string_view> head = json_part(header_length, body);
  if (!head) return head.error();
  const Result<Json> json = parse_json_body(*head);
  if (!json) return json.error();
  JsonFields fields(*json);
  InferRequest request;
  bool binary = false;
  if (auto error = read_parameters(fields, &request, &binary)) return *error;
  if (!fields.has("inputs")) return Error{"inputs is missing", "inputs"};
  Result<std::vector<Tensor>> tensors =
      read_tensors(*fields.value("inputs"), body.substr(head->size()));
  if (!tensors) return tensors.error();
  Inputs inputs(&request);
  for (Tensor& tensor : *tensors) {
    if (auto error = inputs.take(std::move(tensor))) return *error;
  }
  if (auto error = inputs.make_prompts()) return *error;
  const bool text = request.fields["prompt"].front().is_string();
  if (auto error = read_outputs(fields.value("outputs"), binary, text, &request.reply))
    return *error;
  return request;
}

ParsedCall parse_infer_request(const Json& fields, const TensorReply& reply, const ModelInfo& model,
                               const TextCodec& codec) {
  ParsedCall parsed = parse_completion_request(fields, model, codec);
  auto* call = std::get_if<GenerationCall>(&parsed);
  if (call == nullptr) return parsed;
  if (call->stream) {
    return bad_request(
        {"stream must be false: this answer comes whole; /v1/completions streams", "stream"});
  }
  if (call->n_logprobs != kNoLogprobs || call->n_prompt_logprobs != kNoLogprobs) {
    return bad_request(
        {"logprobs and prompt_logprobs are no outputs here; /v1/completions tells "
         "them",
         "logprobs"});
  }
  call->tensors = reply;
  call->return_token_ids = true;
  return parsed;
}

}  // namespace trireme
