#include "coordinator/text/call_scanner.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace trireme {
namespace {

constexpr size_t kMaxHeldBytes = size_t{64} << 10;  // what is not given out as it comes

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

// The text that a JSON string stands for.
std::optional<std::string> decode_string(const std::string& json) {
  const auto value = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!value.is_string()) return std::nullopt;
  return value.get<std::string>();
}

}  // namespace

CallScanner::State CallScanner::feed(char c, std::string& arguments) {
  if (place_ != Place::kInValue && is_space(c)) return State::kOpen;
  switch (place_) {
    case Place::kStart: place_ = Place::kFirstKey; return c == '{' ? State::kOpen : State::kFailed;
    case Place::kFirstKey:
      if (c == '}') return close(arguments);
      [[fallthrough]];
    case Place::kKey:
      if (c != '"') return State::kFailed;
      member_ = Member::kKey;
      return feed_value(c, arguments);
    case Place::kColon: place_ = Place::kValue; return c == ':' ? State::kOpen : State::kFailed;
    case Place::kValue:
      if (c == ',' || c == '}' || c == ']' || c == ':') return State::kFailed;
      return feed_value(c, arguments);
    case Place::kInValue: return feed_value(c, arguments);
    case Place::kAfterValue:
      if (c == '}') return close(arguments);
      place_ = Place::kKey;
      return c == ',' ? State::kOpen : State::kFailed;
  }
  return State::kFailed;
}

CallScanner::State CallScanner::feed_value(char c, std::string& arguments) {
  const bool begins = place_ != Place::kInValue;
  if (begins) {
    place_ = Place::kInValue;
    value_.clear();
    // Arguments in a string are given out when it is whole; others as they come.
    keeps_ = member_ != Member::kOther && (member_ != Member::kArguments || c == '"');
    depth_ = 0;
    in_string_ = escaped_ = false;
  }
  bool ends = false;
  bool belongs = true;  // to the value
  if (in_string_) {
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
      ends = depth_ == 0;
    }
  } else if (c == '"') {
    in_string_ = true;
  } else if (c == '{' || c == '[') {
    ++depth_;
  } else if ((c == '}' || c == ']') && depth_ > 0) {
    ends = --depth_ == 0;
  } else if (depth_ == 0 && (c == ',' || c == '}' || is_space(c))) {
    ends = true;  // a number or a word, which has ended before this
    belongs = false;
  }
  if (belongs && keeps_) value_ += c;
  if (belongs && !keeps_ && member_ == Member::kArguments) give(std::string(1, c), arguments);
  if (value_.size() + held_.size() > kMaxHeldBytes) return State::kFailed;
  if (!ends) return State::kOpen;
  const State state = end_value(arguments);
  return belongs || state != State::kOpen ? state : feed(c, arguments);
}

CallScanner::State CallScanner::end_value(std::string& arguments) {
  place_ = member_ == Member::kKey ? Place::kColon : Place::kAfterValue;
  if (member_ == Member::kArguments) has_arguments_ = true;
  if (!keeps_) return State::kOpen;
  const std::optional<std::string> text = decode_string(value_);
  if (!text) return State::kFailed;
  if (member_ == Member::kKey) {
    member_ = *text == "name" && name_.empty() ? Member::kName : Member::kOther;
    if ((*text == "arguments" || *text == "parameters") && !has_arguments_)
      member_ = Member::kArguments;
    const bool is_known = member_ != Member::kOther || *text == "type" || *text == "id";
    if (only_calls_ && !is_known) return State::kFailed;
  } else if (member_ == Member::kArguments) {
    give(*text, arguments);
  } else {
    if (text->empty()) return State::kFailed;
    name_ = *text;
    give(std::exchange(held_, {}), arguments);
  }
  return State::kOpen;
}

CallScanner::State CallScanner::close(std::string& arguments) {
  if (!has_arguments_) give("{}", arguments);
  return State::kClosed;
}

void CallScanner::give(std::string text, std::string& arguments) {
  (name_.empty() ? held_ : arguments) += text;
}

}  // namespace trireme
