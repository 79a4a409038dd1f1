#include "coordinator/text/tokenizer.h"

#include <fmt/format.h>

#include "coordinator/text/rust_answer.h"
#include "coordinator/text/tokenizer_config.h"

namespace trireme {
namespace {

// Far above any context length; keeps one request from holding a core for minutes.
constexpr size_t kMaxTextBytes = size_t{32} << 20;

constexpr const char* kReplacementCharacter = "\xEF\xBF\xBD";

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& model_folder) {
  const std::filesystem::path path = model_folder / "tokenizer.json";
  if (!std::filesystem::is_regular_file(path)) {
    throw EnvironmentError(fmt::format(
        "{}: no such file; serving needs the model's tokenizer, copy it from where the weights "
        "came from",
        path.string()));
  }
  const std::string name = path.string();
  detail::RustAnswer answer;
  Tokenizer tokenizer;
  tokenizer.handle_.reset(trireme_text_tokenizer_new(name.data(), name.size(), answer.out()),
                          trireme_text_tokenizer_free);
  if (!tokenizer.handle_) {
    throw EnvironmentError(
        fmt::format("{}: not a usable tokenizer ({}); fetch the file again", name, answer.text()));
  }
  const TokenizerConfig config = TokenizerConfig::load(model_folder);
  const auto special_token_id = [&](const char* which) -> std::optional<int32_t> {
    const auto token = config.special_tokens.find(which);
    if (token == config.special_tokens.end()) {
      return std::nullopt;
    }
    return tokenizer.token_id(token->second);
  };
  tokenizer.bos_token_id_ = special_token_id("bos_token");
  tokenizer.eos_token_id_ = special_token_id("eos_token");
  return tokenizer;
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text,
                                               bool add_special_tokens) const {
  return encode_impl(text, add_special_tokens, /*special_as_text=*/false);
}

Result<std::vector<int32_t>> Tokenizer::encode_as_text(std::string_view text,
                                                       bool add_special_tokens) const {
  return encode_impl(text, add_special_tokens, /*special_as_text=*/true);
}

Result<std::vector<int32_t>> Tokenizer::encode_impl(std::string_view text, bool add_special_tokens,
                                                    bool special_as_text) const {
  if (text.size() > kMaxTextBytes) {
    return Error{fmt::format("the text has {} bytes, more than the {} that are taken at once",
                             text.size(), kMaxTextBytes),
                 ""};
  }
  detail::RustAnswer answer;
  const int status = trireme_text_encode(handle(), text.data(), text.size(), add_special_tokens,
                                         special_as_text, answer.out());
  if (status != 0) {
    return Error{"the text cannot be tokenized: " + answer.text(), ""};
  }
  return answer.ids();
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  detail::RustAnswer answer;
  const int status =
      trireme_text_decode(handle(), ids.data(), ids.size(), skip_special_tokens, answer.out());
  // A model's decoder rules can fail on ids; the stream goes on with a visible gap.
  return status == 0 ? answer.text() : kReplacementCharacter;
}

int Tokenizer::vocab_size() const { return static_cast<int>(trireme_text_vocab_size(handle())); }

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const int64_t id = trireme_text_token_id(handle(), token.data(), token.size());
  if (id < 0) {
    return std::nullopt;
  }
  return static_cast<int32_t>(id);
}

}  // namespace trireme
