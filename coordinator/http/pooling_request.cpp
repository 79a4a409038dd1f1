// The bodies of requests that are answered with numbers, as vLLM, OpenAI and Jina take them.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "coordinator/http/cache_fields.h"
#include "coordinator/http/generation_fields.h"
#include "coordinator/http/pooling_kind.h"
#include "coordinator/http/prompt_fields.h"
#include "model/classifier_head.h"

namespace trireme {
namespace {

using Json = OrderedJson;

ApiError unsupported(std::string message, const char* param) {
  return {.status = 400,
          .message = std::move(message),
          .param = param,
          .code = "unsupported_parameter"};
}

// What all of them share.
std::optional<ApiError> begin(JsonFields& fields, const ModelInfo& model, PoolingCall* call) {
  if (auto error = check_model(fields, model)) return error;
  call->priority = static_cast<int32_t>(fields.integer("priority", 0, -kMaxPriority, kMaxPriority));
  read_cache_fields(fields, &call->cache_salt);
  call->dimensions = model.hidden_size;
  return std::nullopt;
}

// What compares or tells embeddings.
std::optional<ApiError> begin_embeddings(JsonFields& fields, const ModelInfo& model,
                                         PoolingCall* call) {
  if (auto error = begin(fields, model, call)) return error;
  if (model.other_pooling.empty()) return std::nullopt;
  return unsupported(fmt::format("this model's embeddings are made by {}, and this server knows "
                                 "the last token's hidden state only (pooling_mode_lasttoken)",
                                 model.other_pooling),
                     "model");
}

PromptForm read_form(JsonFields& fields, const ModelInfo& model, const char* field) {
  return {.field = field,
          .add_special_tokens = fields.boolean("add_special_tokens", true),
          .truncation = read_truncation(fields, model)};
}

std::optional<ApiError> add_input(const Json& input, const PromptForm& form, const ModelInfo& model,
                                  const TextCodec& codec, PoolingCall* call) {
  auto encoded = encode_prompt(input, form, model, codec);
  if (const auto* error = std::get_if<ApiError>(&encoded)) return *error;
  std::vector<int32_t>& ids = std::get<EncodedPrompt>(encoded).ids;
  call->n_prompt_tokens += static_cast<int64_t>(ids.size());
  if (call->n_prompt_tokens > kMaxPoolingTokens) {
    return bad_request({fmt::format("{}: the texts of one request must have at most {} tokens "
                                    "together; send fewer at once",
                                    form.field, kMaxPoolingTokens),
                        form.field});
  }
  call->inputs.push_back(std::move(ids));
  return std::nullopt;
}

// Before any text is encoded.
std::optional<ApiError> check_numbers(size_t n_inputs, const PoolingCall& call, const char* field) {
  const int64_t n_numbers = static_cast<int64_t>(n_inputs) * call.dimensions;
  if (n_numbers <= kMaxPoolingNumbers) return std::nullopt;
  return bad_request({fmt::format("{} inputs with {} numbers each are {} numbers; the limit of one "
                                  "request is {}: send fewer inputs at once",
                                  n_inputs, call.dimensions, n_numbers, kMaxPoolingNumbers),
                      field});
}

// "input", in all its forms.
ParsedPooling read_input(JsonFields& fields, const ModelInfo& model, const TextCodec& codec,
                         PoolingCall call) {
  const PromptForm form = read_form(fields, model, "input");
  if (!fields.has("input")) fields.fail("input", "input is missing");
  if (fields.error()) return bad_request(*fields.error());
  auto listed = list_prompts(*fields.value("input"), form.field, kMaxPoolingInputs);
  if (const auto* error = std::get_if<ApiError>(&listed)) return *error;
  const auto& inputs = std::get<std::vector<const Json*>>(listed);
  if (auto error = check_numbers(inputs.size(), call, form.field)) return *error;
  for (const Json* input : inputs) {
    if (auto error = add_input(*input, form, model, codec, &call)) return *error;
  }
  return call;
}

void read_vector_fields(JsonFields& fields, const ModelInfo& model, PoolingCall* call) {
  const std::string encoding = fields.string("encoding_format", "float");
  call->base64 = encoding == "base64";
  if (!call->base64 && encoding != "float") {
    fields.fail("encoding_format",
                fmt::format("encoding_format must be \"float\" or \"base64\", not {}",
                            shown(Json(encoding))));
  }
  call->dimensions =
      static_cast<int32_t>(fields.integer("dimensions", model.hidden_size, 1, model.hidden_size));
  call->normalize = fields.boolean("normalize", true);
}

// Texts as JSON strings, all of them to be encoded.
std::optional<ApiError> add_texts(const std::vector<std::string>& texts, const PromptForm& form,
                                  const ModelInfo& model, const TextCodec& codec,
                                  PoolingCall* call) {
  for (const std::string& text : texts) {
    if (auto error = add_input(Json(text), form, model, codec, call)) return error;
  }
  return std::nullopt;
}

std::vector<std::string> read_texts(JsonFields& fields, const char* field) {
  std::vector<std::string> texts = fields.strings(field, kMaxPoolingInputs);
  if (texts.empty())
    fields.fail(field, fmt::format("{} must be a string or a list of strings", field));
  return texts;
}

// Strings, or objects with a "text".
std::vector<std::string> read_documents(JsonFields& fields) {
  constexpr const char* kName = "documents";
  const Json* list = fields.value(kName);
  std::vector<std::string> texts;
  if (list == nullptr || !list->is_array() || list->empty() || list->size() > kMaxPoolingInputs) {
    fields.fail(kName, fmt::format("documents must be a list of 1 to {} strings or objects with a "
                                   "\"text\", not {}",
                                   kMaxPoolingInputs, list == nullptr ? "null" : shown(*list)));
    return texts;
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& item = (*list)[i];
    const Json& text = item.is_object() && item.contains("text") ? item["text"] : item;
    if (!text.is_string()) {
      fields.fail(kName, fmt::format("documents[{}] must be a string or an object with a \"text\", "
                                     "not {}",
                                     i, shown(item)));
      return texts;
    }
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

}  // namespace

ParsedPooling parse_embeddings_request(const Json& body, const ModelInfo& model,
                                       const TextCodec& codec) {
  JsonFields fields(body);
  PoolingCall call;
  if (auto error = begin_embeddings(fields, model, &call)) return *error;
  read_vector_fields(fields, model, &call);
  return read_input(fields, model, codec, std::move(call));
}

ParsedPooling parse_pooling_request(const Json& body, const ModelInfo& model,
                                    const TextCodec& codec) {
  JsonFields fields(body);
  const std::string task = fields.string("task", "embed");
  if (fields.error()) return bad_request(*fields.error());
  if (task != "embed") {
    return unsupported(fmt::format("task must be \"embed\", not {}; classes are told by /classify",
                                   shown(Json(task))),
                       "task");
  }
  return parse_embeddings_request(body, model, codec);
}

ParsedPooling parse_score_request(const Json& body, const ModelInfo& model,
                                  const TextCodec& codec) {
  JsonFields fields(body);
  PoolingCall call;
  if (auto error = begin_embeddings(fields, model, &call)) return *error;
  call.normalize = false;
  const PromptForm form_1 = read_form(fields, model, "text_1");
  PromptForm form_2 = form_1;
  form_2.field = "text_2";
  const std::vector<std::string> texts_1 = read_texts(fields, form_1.field);
  const std::vector<std::string> texts_2 = read_texts(fields, form_2.field);
  if (texts_1.size() > 1 && texts_1.size() != texts_2.size()) {
    fields.fail("text_1", fmt::format("text_1 must have one text, or as many as text_2, not {} "
                                      "for {}",
                                      texts_1.size(), texts_2.size()));
  }
  if (fields.error()) return bad_request(*fields.error());
  if (auto error = check_numbers(texts_1.size() + texts_2.size(), call, form_2.field))
    return *error;
  if (auto error = add_texts(texts_1, form_1, model, codec, &call)) return *error;
  call.n_queries = call.inputs.size();
  if (auto error = add_texts(texts_2, form_2, model, codec, &call)) return *error;
  return call;
}

ParsedPooling parse_rerank_request(const Json& body, const ModelInfo& model,
                                   const TextCodec& codec) {
  JsonFields fields(body);
  PoolingCall call;
  if (auto error = begin_embeddings(fields, model, &call)) return *error;
  call.normalize = false;
  const PromptForm of_query = read_form(fields, model, "query");
  PromptForm of_documents = of_query;
  of_documents.field = "documents";
  if (!fields.has("query")) fields.fail("query", "query is missing");
  const std::string query = fields.string("query", "");
  std::vector<std::string> documents = read_documents(fields);
  const int64_t top_n = fields.integer("top_n", 0, 0, INT32_MAX);  // 0: all
  const bool tell_documents = fields.boolean("return_documents", true);
  if (fields.error()) return bad_request(*fields.error());
  if (auto error = check_numbers(1 + documents.size(), call, of_documents.field)) return *error;
  if (auto error = add_texts({query}, of_query, model, codec, &call)) return *error;
  call.n_queries = 1;
  if (auto error = add_texts(documents, of_documents, model, codec, &call)) return *error;
  call.top_n =
      top_n == 0 ? documents.size() : std::min(documents.size(), static_cast<size_t>(top_n));
  if (tell_documents) call.documents = std::move(documents);
  return call;
}

ParsedPooling parse_classify_request(const Json& body, const ModelInfo& model,
                                     const TextCodec& codec) {
  JsonFields fields(body);
  PoolingCall call;
  if (auto error = begin(fields, model, &call)) return *error;
  if (model.classifier == nullptr) {
    return unsupported(fmt::format("this model has no classification head; those that have are {}",
                                   classifier_architectures()),
                       "model");
  }
  call.classifier = model.classifier;
  call.dimensions = model.classifier->n_labels();
  return read_input(fields, model, codec, std::move(call));
}

}  // namespace trireme
