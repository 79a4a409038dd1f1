#pragma once

#include <nlohmann/json_fwd.hpp>

#include "kernels/result.h"

namespace trireme {

// The input and instructions of a request to /v1/responses as messages of a chat, normalized as by
// normalize_messages(). Calls of functions become part of the message before them, and reasoning of
// the one behind it.
Result<nlohmann::ordered_json> read_response_input(const nlohmann::ordered_json& body);

// The request's tools, tool_choice and parallel_tool_calls as chats have them.
Result<nlohmann::ordered_json> read_response_tools(const nlohmann::ordered_json& body);

}  // namespace trireme
