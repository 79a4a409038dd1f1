#include "coordinator/http/stream_position.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

namespace trireme {
namespace {

std::optional<StreamPosition::Choice> parse_choice(std::string_view word, int32_t max_new_tokens) {
  StreamPosition::Choice choice;
  if (word == "-") return choice;
  choice.finished = word.ends_with('e');
  if (choice.finished) word.remove_suffix(1);
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data(), end, choice.n_tokens);
  const bool in_range = choice.n_tokens >= 0 && choice.n_tokens <= max_new_tokens;
  if (error != std::errc() || stop != end || !in_range) return std::nullopt;
  return choice;
}

Error no_event_id() {
  return {"Last-Event-ID must be the id of an event of this answer", "Last-Event-ID"};
}

}  // namespace

std::string StreamPosition::text() const {
  if (choices.empty()) return std::to_string(n_events - 1);
  std::string out;
  for (const Choice& choice : choices) {
    if (!out.empty()) out += '.';
    out += choice.n_tokens < 0 ? "-" : std::to_string(choice.n_tokens);
    if (choice.finished) out += 'e';
  }
  if (usage) out += ".u";
  return out;
}

Result<StreamPosition> StreamPosition::parse(std::string_view text, int n_choices,
                                             int32_t max_new_tokens) {
  StreamPosition position;
  if (text.empty()) {
    position.choices.resize(static_cast<size_t>(n_choices));
    return position;
  }
  if (text.ends_with(".u")) {
    position.usage = true;
    text.remove_suffix(2);
  }
  for (bool more = true; more;) {
    const size_t dot = text.find('.');
    const auto choice = parse_choice(text.substr(0, dot), max_new_tokens);
    if (!choice) return no_event_id();
    position.choices.push_back(*choice);
    more = dot != std::string_view::npos;
    if (more) text.remove_prefix(dot + 1);
  }
  if (position.choices.size() != static_cast<size_t>(n_choices)) return no_event_id();
  return position;
}

Result<StreamPosition> StreamPosition::parse_number(std::string_view text) {
  StreamPosition position;
  if (text.empty()) return position;
  int32_t number = -1;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || number < 0) return no_event_id();
  position.n_events = int64_t{number} + 1;
  return position;
}

}  // namespace trireme
