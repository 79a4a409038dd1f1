#include "coordinator/http/multipart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <utility>
#include <vector>

namespace trireme {
namespace {

constexpr size_t kMaxBoundaryBytes = 70;  // RFC 2046, section 5.1.1

Error malformed(std::string what) { return {"malformed multipart body: " + std::move(what), ""}; }

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

bool is_token_char(char c) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || kOthers.find(c) != kOthers.npos;
}

bool is_boundary_char(char c) {
  constexpr std::string_view kOthers = "'()+_,-./:=? ";
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || kOthers.find(c) != kOthers.npos;
}

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }

void skip_spaces(std::string_view* text) {
  text->remove_prefix(std::min(text->find_first_not_of(" \t"), text->size()));
}

std::string_view take_token(std::string_view* text) {
  size_t n = 0;
  while (n < text->size() && is_token_char((*text)[n])) ++n;
  const std::string_view token = text->substr(0, n);
  text->remove_prefix(n);
  return token;
}

// What is between quotes; a backslash stands before a quote or a backslash.
std::optional<std::string> take_quoted(std::string_view* text) {
  std::string value;
  for (size_t i = 1; i < text->size(); ++i) {
    char c = (*text)[i];
    if (c == '"') {
      text->remove_prefix(i + 1);
      return value;
    }
    const bool escapes =
        c == '\\' && i + 1 < text->size() && ((*text)[i + 1] == '"' || (*text)[i + 1] == '\\');
    if (escapes) c = (*text)[++i];
    if (is_control(c)) return std::nullopt;
    value.push_back(c);
  }
  return std::nullopt;
}

// A header's value: one word, then parameters ("form-data; name=\"file\"").
struct HeaderValue {
  std::string word;
  std::vector<std::pair<std::string, std::string>> parameters;

  const std::string* find(std::string_view name) const {
    for (const auto& [key, value] : parameters) {
      if (equals_ignoring_case(key, name)) return &value;
    }
    return nullptr;
  }
};

std::optional<HeaderValue> parse_value(std::string_view text) {
  HeaderValue out;
  skip_spaces(&text);
  out.word = take_token(&text);
  if (text.starts_with('/')) {  // a media type
    text.remove_prefix(1);
    out.word += "/" + std::string(take_token(&text));
  }
  for (skip_spaces(&text); !text.empty(); skip_spaces(&text)) {
    if (!text.starts_with(';')) return std::nullopt;
    text.remove_prefix(1);
    skip_spaces(&text);
    const std::string key(take_token(&text));
    if (key.empty() || !text.starts_with('=') || out.find(key) != nullptr) return std::nullopt;
    text.remove_prefix(1);
    if (!text.starts_with('"')) {
      out.parameters.emplace_back(key, take_token(&text));
      continue;
    }
    std::optional<std::string> value = take_quoted(&text);
    if (!value) return std::nullopt;
    out.parameters.emplace_back(key, *std::move(value));
  }
  return out;
}

// Of a part's head, lines that each end in CR LF.
Result<FormPart> parse_head(std::string_view head) {
  std::optional<FormPart> part;
  while (!head.empty()) {
    const size_t end = head.find("\r\n");
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(end + 2);
    const size_t colon = line.find(':');
    const bool named =
        colon != line.npos && colon > 0 &&
        std::all_of(line.begin(), line.begin() + static_cast<ptrdiff_t>(colon), is_token_char);
    if (!named ||
        std::any_of(line.begin(), line.end(), [](char c) { return is_control(c) && c != '\t'; })) {
      return malformed("a line of a part's head is no field");
    }
    if (!equals_ignoring_case(line.substr(0, colon), "Content-Disposition")) continue;
    const std::optional<HeaderValue> value = parse_value(line.substr(colon + 1));
    const std::string* name = value ? value->find("name") : nullptr;
    if (part || !value || !equals_ignoring_case(value->word, "form-data") || name == nullptr) {
      return malformed("each part must have one Content-Disposition: form-data; name=\"...\"");
    }
    part.emplace(FormPart{.name = *name});
    if (const std::string* filename = value->find("filename")) part->filename = *filename;
  }
  if (!part) return malformed("a part has no Content-Disposition");
  return *std::move(part);
}

}  // namespace

Result<std::string> multipart_boundary(std::string_view content_type) {
  const std::optional<HeaderValue> value = parse_value(content_type);
  if (!value || !equals_ignoring_case(value->word, "multipart/form-data")) {
    return Error{"the body must be a form: Content-Type multipart/form-data", ""};
  }
  const std::string* boundary = value->find("boundary");
  if (boundary == nullptr || boundary->empty() || boundary->size() > kMaxBoundaryBytes ||
      boundary->ends_with(' ') ||
      !std::all_of(boundary->begin(), boundary->end(), is_boundary_char)) {
    return Error{
        fmt::format("Content-Type must name a boundary of 1 to {} characters", kMaxBoundaryBytes),
        ""};
  }
  return *boundary;
}

MultipartParser::MultipartParser(std::string boundary, Events events)
    : delimiter_("\r\n--" + std::move(boundary)), events_(std::move(events)) {}

std::optional<Error> MultipartParser::feed(std::string_view bytes) {
  buffer_.erase(0, std::exchange(begin_, 0));
  buffer_ += bytes;
  for (;;) {
    const Result<bool> more = advance();
    if (!more) return more.error();
    if (!*more) return std::nullopt;
  }
}

Result<bool> MultipartParser::advance() {
  const std::string_view rest = std::string_view(buffer_).substr(begin_);
  switch (state_) {
    case State::kBegin: {  // as every other, but for the end of a line before it
      const std::string_view first = std::string_view(delimiter_).substr(2);
      if (!rest.starts_with(first.substr(0, rest.size())))
        return malformed("it does not begin with its boundary");
      if (rest.size() < first.size()) return false;
      begin_ += first.size();
      state_ = State::kAfterBoundary;
      return true;
    }
    case State::kAfterBoundary: return read_after_boundary();
    case State::kHead: return read_head();
    case State::kData: return read_data();
    case State::kDone:
      if (!std::string_view("\r\n").starts_with(rest))
        return malformed("there is more behind its last boundary");
      return false;
  }
  return false;
}

Result<bool> MultipartParser::read_after_boundary() {
  const std::string_view rest = std::string_view(buffer_).substr(begin_);
  if (rest.size() < 2) return false;
  begin_ += 2;
  if (rest.starts_with("--")) {
    state_ = State::kDone;
    return true;
  }
  if (!rest.starts_with("\r\n")) return malformed("a boundary has something behind it");
  if (++n_parts_ > kMaxParts) return malformed(fmt::format("it has more than {} parts", kMaxParts));
  state_ = State::kHead;
  return true;
}

Result<bool> MultipartParser::read_head() {
  const std::string_view rest = std::string_view(buffer_).substr(begin_);
  const size_t end = rest.find("\r\n\r\n");
  // Where the end is not there yet, up to three bytes of it may be.
  if (end == rest.npos ? rest.size() > kMaxPartHeadBytes + 3 : end > kMaxPartHeadBytes) {
    return malformed(fmt::format("the head of a part has more than {} bytes", kMaxPartHeadBytes));
  }
  if (end == rest.npos) return false;
  const Result<FormPart> part = parse_head(rest.substr(0, end + 2));
  if (!part) return part.error();
  begin_ += end + 4;
  state_ = State::kData;
  if (auto error = events_.on_part(*part)) return *std::move(error);
  return true;
}

Result<bool> MultipartParser::read_data() {
  const std::string_view rest = std::string_view(buffer_).substr(begin_);
  const size_t end = rest.find(delimiter_);
  // The last bytes may be a delimiter's first.
  const size_t n_safe = rest.size() - std::min(rest.size(), delimiter_.size() - 1);
  const std::string_view data = rest.substr(0, end == rest.npos ? n_safe : end);
  if (!data.empty()) {
    if (auto error = events_.on_data(data)) return *std::move(error);
  }
  begin_ += data.size();
  if (end == rest.npos) return false;
  begin_ += delimiter_.size();
  state_ = State::kAfterBoundary;
  if (auto error = events_.on_part_end()) return *std::move(error);
  return true;
}

}  // namespace trireme
