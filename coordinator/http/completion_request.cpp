#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "coordinator/http/generation_fields.h"
#include "coordinator/http/logit_fields.h"
#include "coordinator/http/prompt_fields.h"
#include "coordinator/http/reply_fields.h"
#include "coordinator/http/request_parsers.h"
#include "coordinator/http/search_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxLogprobs = 5;
constexpr int64_t kDefaultMaxTokens = 16;

// With the text that echo gives back.
std::variant<Prompt, ApiError> read_prompt(const Json& item, const PromptForm& form,
                                           const GenerationCall& call, const ModelInfo& model,
                                           const TextCodec& codec) {
  auto encoded = encode_prompt(item, form, model, codec);
  if (auto* error = std::get_if<ApiError>(&encoded)) return *error;
  auto& [ids, cut] = std::get<EncodedPrompt>(encoded);
  Prompt prompt{.ids = std::move(ids), .text = {}};
  if (call.echo && (cut || !item.is_string())) {
    prompt.text = codec.decode(prompt.ids, call.text.skip_special_tokens);
  } else if (item.is_string()) {
    prompt.text = item.get<std::string>();
  }
  return prompt;
}

// Everything but the prompts.
void read_completion_fields(JsonFields& fields, const ModelInfo& model, const TextCodec& codec,
                            GenerationCall* call) {
  read_generation_fields(fields, model, codec, call);
  call->max_new_tokens = static_cast<int32_t>(
      fields.integer("max_tokens", kDefaultMaxTokens, 0, model.context_length));
  call->echo = fields.boolean("echo", false);
  if (!fields.has("logprobs")) return;
  call->n_logprobs = static_cast<int32_t>(fields.integer("logprobs", 0, 0, kMaxLogprobs));
}

}  // namespace

ParsedCall parse_completion_request(const Json& body, const ModelInfo& model,
                                    const TextCodec& codec) {
  JsonFields fields(body);
  if (auto error = check_model(fields, model)) return *error;
  if (auto error = check_unsupported(fields)) return *error;
  GenerationCall call;
  read_completion_fields(fields, model, codec, &call);
  read_candidate_fields(fields, &call);
  const PromptForm form{.add_special_tokens = fields.boolean("add_special_tokens", true),
                        .truncation = read_truncation(fields, model),
                        .n_max_tokens = call.max_new_tokens};
  if (!fields.has("prompt")) fields.fail("prompt", "prompt is missing");
  if (fields.error()) return bad_request(*fields.error());
  if (auto error = check_min_tokens(call)) return *error;

  auto listed = list_prompts(*fields.value("prompt"), form.field, kMaxChoices);
  if (auto* error = std::get_if<ApiError>(&listed)) return *error;
  const auto& prompts = std::get<std::vector<const Json*>>(listed);
  const int64_t n_sequences = static_cast<int64_t>(prompts.size()) * call.n;
  if (n_sequences > kMaxChoices) {
    return bad_request({fmt::format("{} prompts with n or best_of = {} are {} sequences; the limit "
                                    "is {}",
                                    prompts.size(), call.n, n_sequences, kMaxChoices),
                        call.n_best > 0 ? "best_of" : "n"});
  }
  for (const Json* item : prompts) {
    auto prompt = read_prompt(*item, form, call, model, codec);
    if (auto* error = std::get_if<ApiError>(&prompt)) return *error;
    call.prompts.push_back(std::move(std::get<Prompt>(prompt)));
  }
  if (auto error = check_logprobs(call, model, "logprobs")) return *error;
  return call;
}

}  // namespace trireme
