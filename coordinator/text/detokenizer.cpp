#include "coordinator/text/detokenizer.h"

#include <algorithm>
#include <utility>

namespace trireme {
namespace {

// Decoders look back one token at most, or over one run of byte tokens.
constexpr size_t kMaxContext = 6;

// Tokens that add no text (skipped special ones) or no whole character. Real text stays far below;
// what is beyond is given out as it stands.
constexpr size_t kMaxHeld = 64;

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// Bytes that the decoder shows as U+FFFD may become characters with the next token; those at the
// end are not final.
size_t final_size(std::string_view text) {
  while (text.ends_with(kReplacementCharacter)) {
    text.remove_suffix(kReplacementCharacter.size());
  }
  return text.size();
}

}  // namespace

Detokenizer::Detokenizer(Tokenizer tokenizer, bool skip_special_tokens,
                         std::span<const int32_t> prompt)
    : tokenizer_(std::move(tokenizer)), skip_special_tokens_(skip_special_tokens) {
  start_after(prompt);
}

std::string Detokenizer::push(int32_t token) {
  window_.push_back(token);
  const std::string text = tokenizer_.decode(window_, skip_special_tokens_);
  const size_t size = final_size(text);
  const bool is_held_too_long = window_.size() - n_context_ > kMaxHeld;
  if (!text.starts_with(sent_)) {
    return size == text.size() || is_held_too_long ? flush_all() : std::string();
  }
  std::string added;
  if (size > sent_.size()) {
    added = text.substr(sent_.size(), size - sent_.size());
    sent_ += added;
  }
  if (is_held_too_long) {
    return added + flush_all();
  }
  if (!added.empty() && size == text.size()) {
    window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(n_context_));
    n_context_ = window_.size();
    sent_ = tokenizer_.decode(window_, skip_special_tokens_);
  }
  return added;
}

std::string Detokenizer::finish() { return flush_all(); }

// Gives out all of the window's text and starts anew after it.
std::string Detokenizer::flush_all() {
  const std::vector<int32_t> tokens = std::exchange(window_, {});
  std::string text = tokenizer_.decode(tokens, skip_special_tokens_);
  if (text.starts_with(sent_)) {
    text.erase(0, sent_.size());
  } else {
    // A byte that is no UTF-8 makes some decoders take back the good bytes before it, which are
    // sent: the new tokens go by themselves.
    text = tokenizer_.decode(std::span(tokens).subspan(n_context_), skip_special_tokens_);
  }
  start_after(tokens);
  return text;
}

// Takes the last tokens that decode to whole characters as the context of what follows.
void Detokenizer::start_after(std::span<const int32_t> tokens) {
  for (size_t size = std::min(kMaxContext, tokens.size());; --size) {
    const std::span<const int32_t> context = tokens.last(size);
    std::string text = tokenizer_.decode(context, skip_special_tokens_);
    // Cut inside a character, the context would read differently with what comes next.
    const bool is_whole =
        !text.starts_with(kReplacementCharacter) && !text.ends_with(kReplacementCharacter);
    if (size == 0 || is_whole) {
      window_.assign(context.begin(), context.end());
      n_context_ = window_.size();
      sent_ = std::move(text);
      return;
    }
  }
}

}  // namespace trireme
