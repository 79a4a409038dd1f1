// The answer to a request for an inference: the choices as tensors.

#include <algorithm>

#include "coordinator/http/infer_request.h"
#include "coordinator/http/infer_tensor.h"
#include "coordinator/http/reply_parts.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr int32_t kNoToken = -1;  // behind the last of a row that is not the longest

using Choices = std::vector<ChoiceText>;

class InferFormat final : public ReplyFormat {
 public:
  explicit InferFormat(ReplyOptions options) : options_(std::move(options)) {}

  HttpResponse reply(const Choices& choices, const Usage& usage) override {
    OrderedJson json;
    json["model_name"] = options_.model;
    json["model_version"] = kModelVersion;
    if (!options_.tensors.id.empty()) json["id"] = options_.tensors.id;
    json["parameters"] = {{"prompt_tokens", usage.n_prompt_tokens},
                          {"completion_tokens", usage.n_output_tokens}};
    json["outputs"] = OrderedJson::array();
    std::string binary;
    bool any_binary = false;
    for (const TensorReply::Wanted& wanted : options_.tensors.outputs) {
      Tensor tensor = make_output(wanted.output, choices);
      OrderedJson output;
      output["name"] = tensor.name;
      output["datatype"] = tensor_type_name(tensor.type);
      output["shape"] = tensor.shape;
      if (wanted.binary) {
        const size_t n_before = binary.size();
        append_binary(tensor, &binary);
        output["parameters"] = {{"binary_data_size", binary.size() - n_before}};
        any_binary = true;
      } else {
        output["data"] = std::move(tensor.values);
      }
      json["outputs"].push_back(std::move(output));
    }
    HttpResponse response = json_response(json);
    if (!any_binary) return response;
    response.headers.emplace_back(kInferHeaderLength, std::to_string(response.body.size()));
    response.content_type = "application/octet-stream";
    response.body += binary;
    return response;
  }

  // parse_infer_request lets no stream through.
  ReplyEvents chunk(const ChoiceText& /*part*/, const Usage* /*usage*/) override {
    return no_stream();
  }
  ReplyEvents opening(int /*index*/, const Usage* /*usage*/) override { return no_stream(); }
  ReplyEvents usage_chunk(const Usage& /*usage*/) override { return no_stream(); }

 private:
  static ReplyEvents no_stream() {
    TRIREME_CHECK_MSG(false, "an inference has no stream");
    return {};
  }

  Tensor make_output(TensorReply::Output output, const Choices& choices) const {
    Tensor tensor;
    tensor.name = infer_outputs().at(static_cast<size_t>(output)).name;
    tensor.values = OrderedJson::array();
    if (output == TensorReply::Output::kIds) {
      add_ids(choices, &tensor);
      return tensor;
    }
    tensor.shape = {static_cast<int64_t>(choices.size())};
    if (options_.tensors.column) tensor.shape.push_back(1);
    for (const ChoiceText& choice : choices) {
      if (output == TensorReply::Output::kText) {
        tensor.values.push_back(choice.text);
      } else if (output == TensorReply::Output::kLengths) {
        tensor.values.push_back(choice.token_ids.size());
      } else {
        tensor.values.push_back(finish_reason_json(choice.finish));
      }
    }
    if (output == TensorReply::Output::kLengths) tensor.type = TensorType::kInt32;
    return tensor;
  }

  void add_ids(const Choices& choices, Tensor* tensor) const {
    tensor->type = options_.tensors.int64_ids ? TensorType::kInt64 : TensorType::kInt32;
    size_t longest = 0;
    for (const ChoiceText& choice : choices) longest = std::max(longest, choice.token_ids.size());
    if (!options_.tensors.one_row || choices.size() != 1)
      tensor->shape.push_back(static_cast<int64_t>(choices.size()));
    tensor->shape.push_back(static_cast<int64_t>(longest));
    for (const ChoiceText& choice : choices) {
      for (const int32_t id : choice.token_ids) tensor->values.push_back(id);
      for (size_t i = choice.token_ids.size(); i < longest; ++i) tensor->values.push_back(kNoToken);
    }
  }

  const ReplyOptions options_;
};

}  // namespace

std::unique_ptr<ReplyFormat> make_infer_format(ReplyOptions options, const TextCodec& /*codec*/) {
  return std::make_unique<InferFormat>(std::move(options));
}

}  // namespace trireme
