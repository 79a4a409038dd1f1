#pragma once

#include <optional>

#include "coordinator/http/api_error.h"
#include "coordinator/http/generation_call.h"
#include "coordinator/http/json_fields.h"
#include "coordinator/http/model_info.h"

namespace trireme {

constexpr size_t kMaxLogitBiases = 1024;
constexpr size_t kMaxAllowedTokenIds = 65536;
constexpr size_t kMaxBadWords = 128;
constexpr size_t kMaxBadWordBytes = 256;

// What changes the logits: min_p, the penalties, logit_bias, allowed_token_ids, bad_words,
// min_tokens. After the fields about stopping. Errors are left in `fields`.
void read_logit_fields(JsonFields& fields, const ModelInfo& model, const TextCodec& codec,
                       GenerationCall* call);

// min_tokens is at most what may be generated.
std::optional<ApiError> check_min_tokens(const GenerationCall& call);

}  // namespace trireme
