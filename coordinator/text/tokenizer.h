#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/result.h"

struct TextTokenizer;

namespace trireme {

// The tokenizer of a model folder. Cheap to copy (copies share it) and safe to use from several
// threads. All text is UTF-8.
class Tokenizer {
 public:
  // Reads tokenizer.json and, where there is one, tokenizer_config.json. Throws EnvironmentError.
  static Tokenizer load(const std::filesystem::path& model_folder);

  // Special tokens written in `text` become control tokens: right for raw completion prompts and
  // for text the server itself wrote. Chats go through ChatTemplate::render_and_encode instead.
  // `add_special_tokens` adds what the model expects around a prompt (often the bos token).
  Result<std::vector<int32_t>> encode(std::string_view text, bool add_special_tokens) const;

  // Special tokens written in `text` stay ordinary text.
  Result<std::vector<int32_t>> encode_as_text(std::string_view text, bool add_special_tokens) const;

  // Ids that are no token are left out; bytes that are no UTF-8 become U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // Number of tokens, added ones included. The model's vocab_size may be larger (padding).
  int vocab_size() const;

  // By the token's exact text, for example "<|im_end|>".
  std::optional<int32_t> token_id(std::string_view token) const;

  // From tokenizer_config.json; none when it names none.
  std::optional<int32_t> bos_token_id() const { return bos_token_id_; }
  std::optional<int32_t> eos_token_id() const { return eos_token_id_; }

  // For the classes of this folder.
  const TextTokenizer* handle() const { return handle_.get(); }

 private:
  Tokenizer() = default;

  Result<std::vector<int32_t>> encode_impl(std::string_view text, bool add_special_tokens,
                                           bool special_as_text) const;

  std::shared_ptr<TextTokenizer> handle_;
  std::optional<int32_t> bos_token_id_;
  std::optional<int32_t> eos_token_id_;
};

}  // namespace trireme
