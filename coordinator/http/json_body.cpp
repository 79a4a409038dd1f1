#include "coordinator/http/json_body.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

namespace trireme {
namespace {

// Counts without parsing: what is not JSON is left for the parser to refuse.
Result<int64_t> check_size(std::string_view body) {
  std::array<int64_t, kMaxJsonDepth + 1> n_items = {};  // of the list or object at each depth
  std::array<bool, kMaxJsonDepth + 1> is_object = {};
  int depth = 0;
  int64_t n_values = 1;
  bool in_string = false;
  for (size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    if (c == '"') in_string = true;
    if ((c == ']' || c == '}') && --depth < 0) break;
    if (c == '[' || c == '{') {
      ++n_values;
      if (++depth > kMaxJsonDepth) {
        return Error{fmt::format("the JSON body is nested deeper than {} levels", kMaxJsonDepth),
                     ""};
      }
      n_items[depth] = 1;
      is_object[depth] = c == '{';
    }
    if (c != ',') continue;
    if (++n_values > kMaxJsonValues) {
      return Error{fmt::format("the JSON body has more than {} values", kMaxJsonValues), ""};
    }
    if (++n_items[depth] > kMaxJsonMembers && is_object[depth]) {
      return Error{
          fmt::format("an object in the JSON body has more than {} members", kMaxJsonMembers), ""};
    }
  }
  return n_values;
}

// "[json.exception.parse_error.101] parse error at line 1 ..." without the bracket, and bounded:
// it quotes the body.
std::string parser_message(std::string_view what) {
  constexpr size_t kMaxBytes = 200;
  const size_t end = what.find("] ");
  if (what.starts_with('[') && end != std::string_view::npos) what.remove_prefix(end + 2);
  return std::string(what.substr(0, kMaxBytes));
}

}  // namespace

Result<nlohmann::ordered_json> parse_json_body(std::string_view body) {
  if (body.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    return Error{"the body is empty: it must be a JSON object", ""};
  }
  if (const Result<int64_t> size = check_size(body); !size) return size.error();
  try {
    nlohmann::ordered_json json = nlohmann::ordered_json::parse(body);
    if (!json.is_object()) {
      return Error{fmt::format("the body must be a JSON object, not {}", json.type_name()), ""};
    }
    return json;
  } catch (const nlohmann::ordered_json::exception& error) {
    return Error{fmt::format("the body is not valid JSON: {}", parser_message(error.what())), ""};
  }
}

}  // namespace trireme
