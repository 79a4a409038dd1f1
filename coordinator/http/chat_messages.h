#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/http/text_codec.h"
#include "kernels/result.h"

namespace trireme {

constexpr size_t kMaxMessages = 4096;

// Messages as chat templates take them: content is one string (text parts are joined by newlines),
// null becomes "", and the arguments of tool_calls are objects. Other fields of a message (name,
// ...) are kept.
Result<nlohmann::ordered_json> normalize_messages(const nlohmann::ordered_json& messages);

// The text of a list of {"type", "text"}, joined by newlines. `types`: those that are taken. The
// error names `name`, and no field of the request.
Result<std::string> join_text_parts(const nlohmann::ordered_json& parts, const std::string& name,
                                    const std::vector<std::string_view>& types);

// A call's arguments as templates take them: an object. Clients send its text. The error names
// no field of the request.
Result<nlohmann::ordered_json> call_arguments(const nlohmann::ordered_json& arguments);

// Reads the fields of `body` that say how messages become a prompt.
Result<ChatPromptOptions> read_chat_prompt_options(const nlohmann::ordered_json& body);

}  // namespace trireme
