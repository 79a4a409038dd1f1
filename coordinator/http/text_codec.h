#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/serving/token_guide.h"
#include "kernels/result.h"

namespace trireme {

// How one sequence's ids become text.
struct TextStreamOptions {
  std::vector<std::string> stop;  // generation ends where the text holds one of them
  bool skip_special_tokens = true;
  bool include_stop_string = false;  // the stop string stays in the text
};

// One sequence's text as it grows. Bytes are held back while they may be part of a character or of
// a stop string. Not thread-safe.
class TextStream {
 public:
  struct Piece {
    std::string text;      // valid UTF-8, safe to send
    bool stopped = false;  // a stop string was found; push no more, finish() gives nothing
  };
  virtual ~TextStream() = default;
  virtual Piece push(int32_t token_id) = 0;
  // What was held back.
  virtual std::string finish() = 0;
};

struct ChatPromptOptions {
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  const nlohmann::ordered_json* template_kwargs = nullptr;  // an object, or null
  const nlohmann::ordered_json* tools = nullptr;            // a list, or null
};

// The model's text side as the endpoints need it. Thread-safe.
class TextCodec {
 public:
  virtual ~TextCodec() = default;
  virtual Result<std::vector<int32_t>> encode(std::string_view text,
                                              bool add_special_tokens) const = 0;
  // `messages`: a list of objects with string fields "role" and "content".
  virtual Result<std::vector<int32_t>> encode_chat(const nlohmann::ordered_json& messages,
                                                   const ChatPromptOptions& options) const = 0;
  // Bytes that are no UTF-8 become U+FFFD.
  virtual std::string decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const = 0;
  // The text that follows `prompt_ids`.
  virtual std::unique_ptr<TextStream> open_stream(const TextStreamOptions& options,
                                                  const std::vector<int32_t>& prompt_ids) const = 0;
  // The one token that is this text; none where there is none.
  virtual std::optional<int32_t> token_id(std::string_view /*text*/) const { return std::nullopt; }
  // What renders chats, with tools if it makes a difference; "" for none.
  virtual std::string chat_template() const { return ""; }
  // Grammars over a model's logits [vocab_size], ended by `end_tokens`; null where it knows none.
  virtual std::shared_ptr<const GuideMaker> make_guides(
      int32_t /*vocab_size*/, const std::vector<int32_t>& /*end_tokens*/) const {
    return nullptr;
  }
};

}  // namespace trireme
