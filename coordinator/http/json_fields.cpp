#include "coordinator/http/json_fields.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/check.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

// The integer a JSON number stands for: 16 and 16.0 both, as other servers take it.
std::optional<int64_t> as_integer(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const auto number = value.get<double>();
  if (std::abs(number) > 9e15 || std::floor(number) != number) return std::nullopt;
  return static_cast<int64_t>(number);
}

}  // namespace

std::string shown(const Json& value) {
  constexpr size_t kMaxBytes = 80;
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  if (value.is_object()) return "an object";
  if (value.is_string() && value.get_ref<const std::string&>().size() > kMaxBytes) {
    return fmt::format("a string of {} bytes", value.get_ref<const std::string&>().size());
  }
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

JsonFields::JsonFields(const Json& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {
  TRIREME_CHECK(object_.is_object());
}

const Json* JsonFields::value(std::string_view name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool JsonFields::has(std::string_view name) const { return value(name) != nullptr; }

void JsonFields::fail(std::string_view name, std::string message) {
  if (!error_) error_ = Error{std::move(message), full_name(name)};
}

int64_t JsonFields::integer(std::string_view name, int64_t fallback, int64_t min, int64_t max) {
  const Json* field = value(name);
  if (field == nullptr) return fallback;
  const std::optional<int64_t> number = as_integer(*field);
  if (number && *number >= min && *number <= max) return *number;
  fail(name, fmt::format("{} must be an integer between {} and {}, not {}", full_name(name), min,
                         max, shown(*field)));
  return fallback;
}

double JsonFields::number(std::string_view name, double fallback, double min, double max) {
  const Json* field = value(name);
  if (field == nullptr) return fallback;
  if (field->is_number()) {
    const auto number = field->get<double>();
    if (number >= min && number <= max) return number;
  }
  fail(name, fmt::format("{} must be a number between {} and {}, not {}", full_name(name), min, max,
                         shown(*field)));
  return fallback;
}

bool JsonFields::boolean(std::string_view name, bool fallback) {
  const Json* field = value(name);
  if (field == nullptr) return fallback;
  if (field->is_boolean()) return field->get<bool>();
  fail(name, fmt::format("{} must be true or false, not {}", full_name(name), shown(*field)));
  return fallback;
}

std::string JsonFields::string(std::string_view name, std::string_view fallback) {
  const Json* field = value(name);
  if (field == nullptr) return std::string(fallback);
  if (field->is_string()) return field->get<std::string>();
  fail(name, fmt::format("{} must be a string, not {}", full_name(name), shown(*field)));
  return std::string(fallback);
}

std::vector<std::string> JsonFields::strings(std::string_view name, size_t max_count) {
  const Json* field = value(name);
  if (field == nullptr) return {};
  const Json list = field->is_array() ? *field : Json::array({*field});
  if (list.size() > max_count) {
    fail(name, fmt::format("{} must have at most {} strings, not {}", full_name(name), max_count,
                           list.size()));
    return {};
  }
  std::vector<std::string> strings;
  for (const Json& item : list) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      fail(name, fmt::format("{} must be a non-empty string or a list of them, not {}",
                             full_name(name), shown(item)));
      return {};
    }
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

std::vector<int32_t> JsonFields::token_ids(std::string_view name, int32_t vocab_size,
                                           size_t max_count) {
  const Json* field = value(name);
  if (field == nullptr) return {};
  Result<std::vector<int32_t>> ids =
      parse_token_ids(*field, full_name(name), vocab_size, max_count);
  if (ids) return std::move(*ids);
  fail(name, ids.error().message);
  return {};
}

const Json* JsonFields::object(std::string_view name) {
  const Json* field = value(name);
  if (field == nullptr || field->is_object()) return field;
  fail(name, fmt::format("{} must be an object, not {}", full_name(name), shown(*field)));
  return nullptr;
}

Result<std::vector<int32_t>> parse_token_ids(const Json& list, const std::string& name,
                                             int32_t vocab_size, size_t max_count) {
  if (!list.is_array()) {
    return Error{fmt::format("{} must be a list of token ids, not {}", name, shown(list)), name};
  }
  if (list.size() > max_count) {
    return Error{
        fmt::format("{} must have at most {} token ids, not {}", name, max_count, list.size()),
        name};
  }
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const std::optional<int64_t> id = as_integer(list[i]);
    if (!id || *id < 0 || *id >= vocab_size) {
      return Error{fmt::format("{}[{}] must be a token id between 0 and {}, not {}", name, i,
                               vocab_size - 1, shown(list[i])),
                   name};
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

}  // namespace trireme
