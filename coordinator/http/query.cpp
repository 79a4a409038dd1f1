#include "coordinator/http/query.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "coordinator/http/http_wire.h"

namespace trireme {
namespace {

Result<std::string> decode(std::string_view text) {
  std::string spaced(text);
  std::replace(spaced.begin(), spaced.end(), '+', ' ');
  std::string out;
  if (!percent_decode(spaced, &out)) return Error{"bad percent escape in the query", ""};
  return out;
}

}  // namespace

Result<std::optional<std::string>> query_value(std::string_view query, std::string_view name) {
  std::optional<std::string> found;
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(pair.size() + 1, query.size()));
    const size_t equals = pair.find('=');
    const Result<std::string> key = decode(pair.substr(0, equals));
    if (!key) return key.error();
    if (*key != name) continue;
    if (found) return Error{fmt::format("{} is in the query twice", name), std::string(name)};
    Result<std::string> value =
        decode(equals == pair.npos ? std::string_view() : pair.substr(equals + 1));
    if (!value) return value.error();
    found = *std::move(value);
  }
  return found;
}

Result<int64_t> query_integer(std::string_view query, std::string_view name, int64_t fallback,
                              int64_t min, int64_t max) {
  const Result<std::optional<std::string>> text = query_value(query, name);
  if (!text) return text.error();
  if (!*text) return fallback;
  int64_t value = 0;
  const char* end = (*text)->data() + (*text)->size();
  const auto parsed = std::from_chars((*text)->data(), end, value);
  if (parsed.ec == std::errc() && parsed.ptr == end && value >= min && value <= max) return value;
  return Error{fmt::format("{} must be a whole number from {} to {}", name, min, max),
               std::string(name)};
}

}  // namespace trireme
