#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "coordinator/http/generation_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

// What a value must be to ask for nothing.
enum class Neutral : uint8_t {
  kNever,  // only null
  kFalse,
  kTrue,
  kZero,
  kOne,
  kEmpty,     // "", [] or {}
  kTextList,  // ["text"]
  kToolNone,  // "none" or "auto": without tools there is nothing to call
};

struct UnsupportedField {
  std::string_view name;
  Neutral neutral;
};

constexpr auto kUnsupported = std::to_array<UnsupportedField>({
    {"presence_penalty", Neutral::kZero},
    {"frequency_penalty", Neutral::kZero},
    {"repetition_penalty", Neutral::kOne},
    {"min_p", Neutral::kZero},
    {"min_tokens", Neutral::kZero},
    {"length_penalty", Neutral::kOne},
    {"use_beam_search", Neutral::kFalse},
    {"logit_bias", Neutral::kEmpty},
    {"suffix", Neutral::kEmpty},
    {"functions", Neutral::kEmpty},
    {"function_call", Neutral::kToolNone},
    {"grammar", Neutral::kNever},
    {"reasoning_effort", Neutral::kNever},
    {"prompt_logprobs", Neutral::kNever},
    {"return_token_ids", Neutral::kFalse},
    {"return_tokens_as_token_ids", Neutral::kFalse},
    {"allowed_token_ids", Neutral::kNever},
    {"bad_words", Neutral::kEmpty},
    {"priority", Neutral::kZero},
    {"request_id", Neutral::kNever},
    {"cache_salt", Neutral::kNever},
    {"truncate_prompt_tokens", Neutral::kNever},
    {"spaces_between_special_tokens", Neutral::kTrue},
    {"chat_template", Neutral::kNever},
    {"documents", Neutral::kEmpty},
    {"audio", Neutral::kNever},
    {"modalities", Neutral::kTextList},
    {"web_search_options", Neutral::kNever},
});

bool is_neutral(const Json& value, Neutral neutral) {
  switch (neutral) {
    case Neutral::kNever: return false;
    case Neutral::kFalse: return value == false;
    case Neutral::kTrue: return value == true;
    case Neutral::kZero: return value.is_number() && value == 0;
    case Neutral::kOne: return value.is_number() && value == 1;
    case Neutral::kEmpty:
      return value == "" || ((value.is_array() || value.is_object()) && value.empty());
    case Neutral::kTextList: return value == Json::array({"text"});
    case Neutral::kToolNone: return value == "none" || value == "auto";
  }
  return false;
}

ApiError unsupported(std::string_view name, const Json& value) {
  return ApiError{.status = 400,
                  .message = fmt::format("{} = {} is not supported in this version; leave it out",
                                         name, shown(value)),
                  .param = std::string(name),
                  .code = "unsupported_parameter"};
}

}  // namespace

std::optional<ApiError> check_unsupported(const JsonFields& fields, GenerationEndpoint endpoint) {
  for (const UnsupportedField& row : kUnsupported) {
    const Json* value = fields.value(row.name);
    if (value != nullptr && !is_neutral(*value, row.neutral)) {
      return unsupported(row.name, *value);
    }
  }
  if (endpoint == GenerationEndpoint::kChat) return std::nullopt;
  // best_of candidates of which n are returned: nothing to choose from when they are equal.
  const Json* best_of = fields.value("best_of");
  const Json* n = fields.value("n");
  if (best_of != nullptr && *best_of != (n != nullptr ? *n : Json(1))) {
    return unsupported("best_of", *best_of);
  }
  return std::nullopt;
}

}  // namespace trireme
