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
  kNever,     // only null
  kEmpty,     // "", [] or {}
  kTextList,  // ["text"]
  kToolNone,  // "none" or "auto": without tools there is nothing to call
};

struct UnsupportedField {
  std::string_view name;
  Neutral neutral;
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

bool is_neutral(const Json& value, Neutral neutral) {
  switch (neutral) {
    case Neutral::kNever: return false;
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

std::optional<ApiError> check_unsupported(const JsonFields& fields) {
  for (const UnsupportedField& row : kUnsupported) {
    const Json* value = fields.value(row.name);
    if (value != nullptr && !is_neutral(*value, row.neutral)) {
      return unsupported(row.name, *value);
    }
  }
  return std::nullopt;
}

}  // namespace trireme
