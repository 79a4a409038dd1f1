#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "coordinator/http/generation_fields.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

// What a value must be to ask for nothing.
enum class Neutral : uint8_t {
  kNever,     // only null
  kEmpty,     // "", [] or {}
  kTextList,  // ["text"]
  kToolNone,  // "none" or "auto": without tools there is nothing to call
  kFalse,
  kZero,
  kOne,
  kDisabled,     // "disabled"
  kNullMembers,  // an object with nothing but null
};

struct UnsupportedField {
  std::string_view name;
  Neutral neutral;
  std::string_view mend = "leave it out";
};

constexpr auto kUnsupported = std::to_array<UnsupportedField>({
    {"functions", Neutral::kEmpty},
    {"function_call", Neutral::kToolNone},
    {"grammar", Neutral::kNever},
    {"reasoning_effort", Neutral::kNever},
    {"chat_template", Neutral::kNever},
    {"documents", Neutral::kEmpty},
    {"audio", Neutral::kNever},
    {"modalities", Neutral::kTextList},
    {"web_search_options", Neutral::kNever},
});

constexpr std::string_view kNotStored =
    "no response is stored here, send the conversation as input";

// Of /v1/responses, which answers with one text and its calls.
constexpr auto kUnsupportedInResponses = std::to_array<UnsupportedField>({
    {"background", Neutral::kFalse},
    {"conversation", Neutral::kEmpty, kNotStored},
    {"previous_response_id", Neutral::kEmpty, kNotStored},
    {"prompt", Neutral::kNever, "send it as input"},
    {"truncation", Neutral::kDisabled},
    {"reasoning", Neutral::kNullMembers},
    {"messages", Neutral::kEmpty, "send them as input"},
    {"max_tokens", Neutral::kNever, "use max_output_tokens"},
    {"max_completion_tokens", Neutral::kNever, "use max_output_tokens"},
    {"response_format", Neutral::kNever, "use text.format"},
    {"n", Neutral::kOne},
    {"echo", Neutral::kFalse},
    {"logprobs", Neutral::kFalse},
    {"top_logprobs", Neutral::kZero},
    {"prompt_logprobs", Neutral::kNever},
    {"return_token_ids", Neutral::kFalse},
});

bool is_neutral(const Json& value, Neutral neutral) {
  switch (neutral) {
    case Neutral::kNever: return false;
    case Neutral::kEmpty:
      return value == "" || ((value.is_array() || value.is_object()) && value.empty());
    case Neutral::kTextList: return value == Json::array({"text"});
    case Neutral::kToolNone: return value == "none" || value == "auto";
    case Neutral::kFalse: return value == false;
    case Neutral::kZero: return value == 0;
    case Neutral::kOne: return value == 1;
    case Neutral::kDisabled: return value == "disabled";
    case Neutral::kNullMembers:
      return value.is_object() &&
             std::all_of(value.begin(), value.end(), [](const Json& one) { return one.is_null(); });
  }
  return false;
}

std::optional<ApiError> check(const JsonFields& fields, std::span<const UnsupportedField> rows) {
  for (const UnsupportedField& row : rows) {
    const Json* value = fields.value(row.name);
    if (value == nullptr || is_neutral(*value, row.neutral)) continue;
    return ApiError{.status = 400,
                    .message = fmt::format("{} = {} is not supported in this version; {}", row.name,
                                           shown(*value), row.mend),
                    .param = std::string(row.name),
                    .code = "unsupported_parameter"};
  }
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> check_unsupported(const JsonFields& fields) {
  return check(fields, kUnsupported);
}

std::optional<ApiError> check_unsupported_in_responses(const JsonFields& fields) {
  return check(fields, kUnsupportedInResponses);
}

}  // namespace trireme
