#pragma once

#include <nlohmann/json_fwd.hpp>
#include <variant>

#include "coordinator/http/api_error.h"
#include "coordinator/http/generation_call.h"
#include "coordinator/http/model_info.h"

namespace trireme {

using ParsedCall = std::variant<GenerationCall, ApiError>;

// The body of POST /v1/completions.
ParsedCall parse_completion_request(const nlohmann::ordered_json& body, const ModelInfo& model,
                                    const TextCodec& codec);

// The body of POST /v1/chat/completions.
ParsedCall parse_chat_request(const nlohmann::ordered_json& body, const ModelInfo& model,
                              const TextCodec& codec);

// The body of POST /v1/responses.
ParsedCall parse_responses_request(const nlohmann::ordered_json& body, const ModelInfo& model,
                                   const TextCodec& codec);

}  // namespace trireme
