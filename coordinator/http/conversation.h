#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "coordinator/http/api_error.h"
#include "coordinator/http/generation_call.h"
#include "coordinator/http/model_info.h"
#include "coordinator/http/reply_fields.h"
#include "coordinator/http/text_codec.h"

namespace trireme {

// A conversation that the model is to go on with.
struct Conversation {
  const char* field;                       // of the request, for errors
  const nlohmann::ordered_json& messages;  // as normalize_messages() gives them
  const ChatPromptOptions& options;
  int64_t max_tokens = 0;  // to generate; 0: as many as the context has room for
  Truncation truncation;
};

// Makes it the one prompt of a call whose other fields are read: checked to fit the context. Sets
// how much is generated, and where the answer's reasoning is found.
std::optional<ApiError> encode_conversation(const Conversation& conversation,
                                            const ModelInfo& model, const TextCodec& codec,
                                            GenerationCall* call);

}  // namespace trireme
