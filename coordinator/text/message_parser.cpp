#include "coordinator/text/message_parser.h"

#include <utility>

namespace trireme {
namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndOfThink = "</think>";
constexpr std::string_view kHermesEnd = "</tool_call>";
constexpr std::string_view kSpace = " \t\r\n";
constexpr size_t kMaxHeldSpace = 4096;
constexpr size_t kMaxOpenedBytes = size_t{64} << 10;

bool is_space(char c) { return kSpace.find(c) != std::string_view::npos; }

bool begins(std::string_view text, std::string_view marker) {
  return text.size() < marker.size() && marker.starts_with(text);
}

}  // namespace

std::string_view opening_of(ToolFormat format) {
  switch (format) {
    case ToolFormat::kHermes: return "<tool_call>";
    case ToolFormat::kLlama3: return "<|python_tag|>";
    case ToolFormat::kMistral: return "[TOOL_CALLS]";
    case ToolFormat::kNone: break;
  }
  return "";
}

ToolFormat tool_format_of(std::string_view chat_template) {
  const auto has = [&](std::string_view text) { return chat_template.find(text) != text.npos; };
  if (has("<tool_call>")) return ToolFormat::kHermes;
  if (has("[TOOL_CALLS]")) return ToolFormat::kMistral;
  if (has("<|python_tag|>") || (has("<|eot_id|>") && has("\"parameters\"")))
    return ToolFormat::kLlama3;
  return ToolFormat::kNone;
}

bool has_reasoning(std::string_view chat_template) {
  return chat_template.find(kEndOfThink) != chat_template.npos;
}

MessageParser::MessageParser(const MessageOptions& options)
    : options_(options),
      place_(options.reasoning && options.begins_in_reasoning ? Place::kReasoning : Place::kStart) {
}

MessagePart MessageParser::feed(std::string_view piece) {
  part_.calls = std::exchange(later_, {});
  n_calls_before_ = n_calls_;
  for (const char c : piece) take(c);
  return std::exchange(part_, {});
}

MessagePart MessageParser::finish() {
  part_.calls = std::exchange(later_, {});
  switch (place_) {
    case Place::kReasoning: part_.reasoning += held_; break;
    case Place::kStart:
    case Place::kContent:
    case Place::kBetween: part_.content += held_; break;
    case Place::kBeforeCall:
    case Place::kCall: part_.content += opened_; break;
    case Place::kAfterCall: break;  // the beginning of the closing
  }
  held_.clear();
  opened_.clear();
  return std::exchange(part_, {});
}

void MessageParser::take(char c) {
  switch (place_) {
    case Place::kStart:
    case Place::kBetween: return take_start(c);
    case Place::kReasoning: return take_reasoning(c);
    case Place::kContent: return take_content(c);
    case Place::kBeforeCall: return take_before_call(c);
    case Place::kCall: return take_call(c);
    case Place::kAfterCall: return take_after_call(c);
  }
}

void MessageParser::take_all(const std::string& text) {
  for (const char c : text) take(c);
}

// A message may begin with its reasoning or a call; space before them is not part of it.
void MessageParser::take_start(char c) {
  const bool at_start = place_ == Place::kStart;
  if (held_.empty() && !at_start && is_space(c)) return;
  held_ += c;
  const size_t n_space = held_.find_first_not_of(kSpace);
  if (n_space == held_.npos && held_.size() < kMaxHeldSpace) return;
  const std::string_view text =
      n_space == held_.npos ? std::string_view() : std::string_view(held_).substr(n_space);
  const std::string_view opening = opening_of(options_.tools);
  const bool may_think = at_start && options_.reasoning;
  if (options_.tools == ToolFormat::kLlama3 && n_calls_ == 0 && text == "{") {
    opened_ = held_.substr(0, n_space);
    held_.clear();
    return begin_call(c);
  }
  if (!opening.empty() && text == opening) {
    opened_ = std::exchange(held_, {});
    place_ = Place::kBeforeCall;
    return;
  }
  if (may_think && text == kThink) {
    held_.clear();
    place_ = Place::kReasoning;
    return;
  }
  if (begins(text, opening) && !text.empty()) return;
  if (may_think && begins(text, kThink) && !text.empty()) return;
  place_ = Place::kContent;
  take_all(std::exchange(held_, {}));
}

void MessageParser::take_reasoning(char c) {
  held_ += c;
  while (!held_.empty() && !kEndOfThink.starts_with(held_)) {
    part_.reasoning += held_.front();
    held_.erase(0, 1);
  }
  if (held_ != kEndOfThink) return;
  held_.clear();
  place_ = Place::kBetween;
}

void MessageParser::take_content(char c) {
  const std::string_view opening = opening_of(options_.tools);
  held_ += c;
  while (!held_.empty() && !opening.starts_with(held_)) {
    part_.content += held_.front();
    held_.erase(0, 1);
  }
  if (held_.empty() || held_ != opening) return;
  opened_ = std::exchange(held_, {});
  place_ = Place::kBeforeCall;
}

void MessageParser::take_before_call(char c) {
  opened_ += c;
  const bool wants_list = options_.tools == ToolFormat::kMistral && !in_list_;
  if (opened_.size() > kMaxHeldSpace) return not_a_call();
  if (is_space(c)) return;
  if (wants_list && c == '[') {
    in_list_ = true;
  } else if (!wants_list && c == '{') {
    opened_.pop_back();
    begin_call(c);
  } else {
    not_a_call();
  }
}

void MessageParser::begin_call(char c) {
  call_.emplace(/*only_calls=*/options_.tools == ToolFormat::kLlama3);
  begun_ = false;
  place_ = Place::kCall;
  take_call(c);
}

void MessageParser::take_call(char c) {
  std::string arguments;
  const CallScanner::State state = call_->feed(c, arguments);
  if (!begun_) opened_ += c;
  if (!begun_ && !call_->name().empty()) {
    begun_ = true;
    opened_.clear();
    part_.calls.push_back({.index = n_calls_++, .name = call_->name(), .arguments = ""});
  }
  if (begun_) give_arguments(n_calls_ - 1, arguments);
  if (state == CallScanner::State::kOpen && opened_.size() <= kMaxOpenedBytes) return;
  if (!begun_) return not_a_call();
  place_ = Place::kAfterCall;
  if (state == CallScanner::State::kFailed) take_after_call(c);
}

// What came of it was not like a call after all.
void MessageParser::not_a_call() {
  place_ = Place::kContent;
  in_list_ = false;
  part_.content += std::exchange(opened_, {});
}

void MessageParser::take_after_call(char c) {
  if (held_.empty() && is_space(c)) return;
  held_ += c;
  const bool hermes = options_.tools == ToolFormat::kHermes;
  if (hermes && begins(held_, kHermesEnd)) return;
  const std::string text = std::exchange(held_, {});
  if (hermes && text == kHermesEnd) {
    place_ = Place::kBetween;
  } else if (c == (options_.tools == ToolFormat::kLlama3 ? ';' : ',') && !hermes) {
    opened_ = text;
    place_ = Place::kBeforeCall;
  } else {
    place_ = Place::kBetween;
    const bool ends_list = std::exchange(in_list_, false) && c == ']';
    if (!ends_list) take_all(text);
  }
}

// Not in the part that the call begins in.
void MessageParser::give_arguments(int index, const std::string& text) {
  if (text.empty()) return;
  std::vector<ToolCallPart>& parts = index >= n_calls_before_ ? later_ : part_.calls;
  if (parts.empty() || parts.back().index != index || !parts.back().name.empty())
    parts.push_back({.index = index, .name = "", .arguments = ""});
  parts.back().arguments += text;
}

}  // namespace trireme
