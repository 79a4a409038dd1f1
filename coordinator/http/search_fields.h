#pragma once

#include <cstdint>

#include "coordinator/http/generation_call.h"
#include "coordinator/http/json_fields.h"
#include "coordinator/http/model_info.h"

namespace trireme {

constexpr int32_t kMaxBeamWidth = 16;

// use_beam_search, length_penalty; n is then the width. After all other shared fields. Errors are
// left in `fields`.
void read_search_fields(JsonFields& fields, const ModelInfo& model, GenerationCall* call);

// best_of and suffix of /v1/completions. After the shared fields.
void read_candidate_fields(JsonFields& fields, GenerationCall* call);

}  // namespace trireme
