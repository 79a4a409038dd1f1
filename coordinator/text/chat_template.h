#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/text/tokenizer.h"
#include "kernels/result.h"

struct TextTemplate;

namespace trireme {

// How a conversation is rendered. The pointers are only looked at during the call. JSON is ordered
// throughout: templates print objects with their fields in the client's order.
struct ChatOptions {
  // Ends with the header of the assistant's next message.
  bool add_generation_prompt = true;
  // Leaves the last message open, so that the model goes on with it. Excludes the option above.
  bool continue_final_message = false;
  // An array of tools as in the OpenAI API; null when there are none.
  const nlohmann::ordered_json* tools = nullptr;
  // Further variables of the template, an object; null when there are none.
  const nlohmann::ordered_json* chat_template_kwargs = nullptr;
};

// A model's chat template, run as transformers' apply_chat_template runs it. Bounded in steps, in
// output, and in the size and nesting of the messages; the template's own raise_exception becomes
// the error's message. Memory for intermediate strings is not bounded: the template comes with the
// model. Cheap to copy and safe to use from several threads.
class ChatTemplate {
 public:
  // None when the model has no chat template. Throws EnvironmentError for one that does not parse.
  static std::optional<ChatTemplate> load(const std::filesystem::path& model_folder,
                                          const Tokenizer& tokenizer);

  // `messages`: an array of {"role", "content", ...} as in the OpenAI API, at least one.
  Result<std::string> render(const nlohmann::ordered_json& messages,
                             const ChatOptions& options) const;

  // The ids of the rendered conversation. Control tokens (special ones, and added ones that the
  // template writes) come from the template only: where the text of messages, tools or arguments
  // spells one, it is encoded as ordinary text.
  Result<std::vector<int32_t>> render_and_encode(const nlohmann::ordered_json& messages,
                                                 const ChatOptions& options) const;

  // The source of what renders conversations with tools.
  const std::string& tool_source() const { return tool_source_; }

 private:
  ChatTemplate() = default;

  const TextTemplate* choose(const ChatOptions& options) const;

  std::shared_ptr<TextTemplate> default_;
  std::shared_ptr<TextTemplate> tool_use_;  // null where the model has no such template
  std::string tool_source_;
};

}  // namespace trireme
