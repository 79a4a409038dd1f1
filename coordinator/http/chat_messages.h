#pragma once

#include <nlohmann/json_fwd.hpp>

#include "coordinator/http/text_codec.h"
#include "kernels/result.h"

namespace trireme {

constexpr size_t kMaxMessages = 4096;

// Messages as chat templates take them: content is one string (text parts are joined by newlines),
// null becomes "", and the arguments of tool_calls are objects. Other fields of a message (name,
// ...) are kept.
Result<nlohmann::ordered_json> normalize_messages(const nlohmann::ordered_json& messages);

// Reads the fields of `body` that say how messages become a prompt.
Result<ChatPromptOptions> read_chat_prompt_options(const nlohmann::ordered_json& body);

}  // namespace trireme
