#include "model/config_fields.h"

#include <cmath>
#include <fstream>
#include <set>
#include <utility>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "kernels/result.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 64;
constexpr uint64_t kMaxJsonFileBytes = 64 << 20;
constexpr const char* kMend = "correct the file or download the model again";

// Thrown out of the parser, which has no other way to stop early.
struct RefusedJson {
  std::string why;
};

}  // namespace

std::string shown_json(const Json& value, size_t max_bytes) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= max_bytes ? text : text.substr(0, max_bytes) + "...";
}

std::string path_text(const std::filesystem::path& path) { return path.string(); }

nlohmann::json parse_json(std::string_view text, const std::string& file, uint64_t offset) {
  std::vector<std::set<std::string>> names;  // of the objects that are open, by depth
  const auto on_event = [&names](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) throw RefusedJson{fmt::format("is nested deeper than {}", kMaxDepth)};
    if (event == Json::parse_event_t::object_start) {
      names.resize(static_cast<size_t>(depth) + 1);
      names.back().clear();
    } else if (event == Json::parse_event_t::key) {
      // A key is told with the depth inside its object.
      auto& open = names.at(static_cast<size_t>(depth) - 1);
      if (!open.insert(parsed.get<std::string>()).second) {
        throw RefusedJson{fmt::format("has the name {} twice in one object", shown_json(parsed))};
      }
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), on_event);
  } catch (const Json::parse_error& e) {
    throw EnvironmentError(fmt::format("{}: not valid JSON at byte {}; {}", file,
                                       offset + e.byte - (e.byte > 0 ? 1 : 0), kMend));
  } catch (const Json::exception&) {
    throw EnvironmentError(fmt::format("{}: the JSON at byte {} holds a number out of range; {}",
                                       file, offset, kMend));
  } catch (const RefusedJson& refused) {
    throw EnvironmentError(
        fmt::format("{}: the JSON at byte {} {}; {}", file, offset, refused.why, kMend));
  }
}

nlohmann::json read_json_file(const std::filesystem::path& path) {
  const std::string file = path_text(path);
  std::error_code code;
  if (!std::filesystem::is_regular_file(path, code)) {
    throw EnvironmentError(fmt::format(
        "{}: no such file; give the folder of a Hugging Face model (config.json, *.safetensors)",
        file));
  }
  const uint64_t size = std::filesystem::file_size(path, code);
  if (code || size > kMaxJsonFileBytes) {
    throw EnvironmentError(fmt::format("{}: {} bytes, but at most {} are read; {}", file, size,
                                       kMaxJsonFileBytes, kMend));
  }
  std::string text(size, '\0');
  std::ifstream in(path, std::ios::binary);
  in.read(text.data(), static_cast<std::streamsize>(size));
  if (!in) {
    throw EnvironmentError(fmt::format("{}: cannot be read; check its permissions", file));
  }
  return parse_json(text, file, 0);
}

ConfigFields::ConfigFields(const Json& object, std::string file, std::string prefix)
    : object_(&object), file_(std::move(file)), prefix_(std::move(prefix)) {
  if (!object.is_object()) {
    throw EnvironmentError(fmt::format("{}: {}must be a JSON object, but is {}; {}", file_,
                                       prefix_.empty() ? "" : prefix_ + " ", shown_json(object),
                                       kMend));
  }
}

const Json* ConfigFields::find(std::string_view name) const {
  const auto it = object_->find(name);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool ConfigFields::has_key(std::string_view name) const { return object_->contains(name); }
bool ConfigFields::has(std::string_view name) const { return find(name) != nullptr; }
bool ConfigFields::empty() const { return object_->empty(); }

void ConfigFields::fail(std::string_view name, std::string_view why) const {
  const Json* value = find(name);
  throw EnvironmentError(fmt::format("{}: \"{}{}\" is {}, but {}; {}", file_, prefix_, name,
                                     value == nullptr ? "missing" : shown_json(*value), why,
                                     kMend));
}

int64_t ConfigFields::checked_integer(std::string_view name, const Json& value,
                                      IntLimits limits) const {
  const std::string why = fmt::format("must be an integer from {} to {}", limits.min, limits.max);
  if (!value.is_number()) fail(name, why);
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    fail(name, why);
  }
  if (value.is_number_float()) {
    // Some files write 8192.0 where 8192 is meant.
    const double number = value.get<double>();
    if (std::abs(number) > 9.0e15 || number != std::floor(number)) fail(name, why);
  }
  const auto integer = value.get<int64_t>();
  if (integer < limits.min || integer > limits.max) fail(name, why);
  return integer;
}

int64_t ConfigFields::integer(std::string_view name, IntLimits limits) const {
  const Json* value = find(name);
  if (value == nullptr) {
    fail(name, fmt::format("must be an integer from {} to {}", limits.min, limits.max));
  }
  return checked_integer(name, *value, limits);
}

int64_t ConfigFields::integer_or(std::string_view name, int64_t fallback, IntLimits limits) const {
  return has(name) ? integer(name, limits) : fallback;
}

double ConfigFields::number(std::string_view name, NumberLimits limits) const {
  const Json* value = find(name);
  if (value != nullptr && value->is_number()) {
    const auto number = value->get<double>();
    if (number >= limits.min && number <= limits.max) return number;
  }
  fail(name, fmt::format("must be a number from {} to {}", limits.min, limits.max));
}

double ConfigFields::number_or(std::string_view name, double fallback, NumberLimits limits) const {
  return has(name) ? number(name, limits) : fallback;
}

bool ConfigFields::boolean_or(std::string_view name, bool fallback) const {
  const Json* value = find(name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) fail(name, "must be true or false");
  return value->get<bool>();
}

std::string ConfigFields::string(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr || !value->is_string()) fail(name, "must be a string");
  return value->get<std::string>();
}

std::string ConfigFields::string_or(std::string_view name, std::string_view fallback) const {
  return has(name) ? string(name) : std::string(fallback);
}

std::vector<int64_t> ConfigFields::integers(std::string_view name, size_t max_size,
                                            IntLimits limits) const {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (!value->is_array()) return {checked_integer(name, *value, limits)};
  if (value->size() > max_size) fail(name, fmt::format("may hold at most {} numbers", max_size));
  std::vector<int64_t> out;
  for (const Json& element : *value) out.push_back(checked_integer(name, element, limits));
  return out;
}

std::vector<std::string> ConfigFields::strings(std::string_view name, size_t max_size) const {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (!value->is_array() || value->size() > max_size) {
    fail(name, fmt::format("must be a list of at most {} strings", max_size));
  }
  std::vector<std::string> out;
  for (const Json& element : *value) {
    if (!element.is_string()) fail(name, "must be a list of strings");
    out.push_back(element.get<std::string>());
  }
  return out;
}

std::optional<ConfigFields> ConfigFields::object(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) fail(name, "must be a JSON object");
  return ConfigFields(*value, file_, fmt::format("{}{}.", prefix_, name));
}

std::vector<std::string> ConfigFields::object_names() const {
  std::vector<std::string> out;
  for (const auto& [name, value] : object_->items()) {
    if (value.is_object()) out.push_back(name);
  }
  return out;
}

}  // namespace trireme
