#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "coordinator/http/generation_fields.h"
#include "coordinator/http/logit_fields.h"
#include "coordinator/http/reply_fields.h"
#include "coordinator/http/request_parsers.h"
#include "coordinator/http/search_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxLogprobs = 5;
constexpr int64_t kDefaultMaxTokens = 16;

// The prompts before any text is encoded: strings stay JSON strings, ids lists of numbers.
std::variant<std::vector<const Json*>, ApiError> list_prompts(const Json& prompt) {
  std::vector<const Json*> prompts;
  const auto wrong = [&prompt] {
    return bad_request({fmt::format("prompt must be a string, a list of strings, a list of token "
                                    "ids or a list of such lists, not {}",
                                    shown(prompt)),
                        "prompt"});
  };
  if (prompt.is_string()) return std::vector<const Json*>{&prompt};
  if (!prompt.is_array() || prompt.empty()) return wrong();
  if (prompt.front().is_number()) return std::vector<const Json*>{&prompt};
  if (prompt.size() > static_cast<size_t>(kMaxChoices)) {
    return bad_request(
        {fmt::format("prompt must have at most {} prompts, not {}", kMaxChoices, prompt.size()),
         "prompt"});
  }
  for (const Json& item : prompt) {
    if (item.type() != prompt.front().type() || (!item.is_string() && !item.is_array())) {
      return wrong();
    }
    prompts.push_back(&item);
  }
  return prompts;
}

std::variant<Prompt, ApiError> encode_prompt(const Json& item, const GenerationCall& call,
                                             bool add_special_tokens, const Truncation& truncation,
                                             const ModelInfo& model, const TextCodec& codec) {
  Prompt prompt;
  if (item.is_string()) {
    prompt.text = item.get<std::string>();
    if (auto error = check_text_size(prompt.text.size(), model, "prompt")) return *error;
    auto ids = codec.encode(prompt.text, add_special_tokens);
    if (!ids) return bad_request({ids.error().message, "prompt"});
    prompt.ids = std::move(*ids);
  } else {
    if (!truncation.wanted()) {
      auto error = check_fits(item.size(), call.max_new_tokens, model, "prompt");
      if (error) return *error;
    }
    auto ids = parse_token_ids(item, "prompt", model.vocab_size, item.size());
    if (!ids) return bad_request(ids.error());
    prompt.ids = std::move(*ids);
  }
  const bool cut = truncation.apply(call.max_new_tokens, model, &prompt.ids);
  if (call.echo && (cut || !item.is_string()))
    prompt.text = codec.decode(prompt.ids, call.text.skip_special_tokens);
  if (auto error = check_fits(prompt.ids.size(), call.max_new_tokens, model, "prompt")) {
    return *error;
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
  const Truncation truncation = read_truncation(fields, model);
  const bool add_special_tokens = fields.boolean("add_special_tokens", true);
  if (!fields.has("prompt")) fields.fail("prompt", "prompt is missing");
  if (fields.error()) return bad_request(*fields.error());
  if (auto error = check_min_tokens(call)) return *error;

  auto listed = list_prompts(*fields.value("prompt"));
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
    auto prompt = encode_prompt(*item, call, add_special_tokens, truncation, model, codec);
    if (auto* error = std::get_if<ApiError>(&prompt)) return *error;
    call.prompts.push_back(std::move(std::get<Prompt>(prompt)));
  }
  if (auto error = check_logprobs(call, model, "logprobs")) return *error;
  return call;
}

}  // namespace trireme
