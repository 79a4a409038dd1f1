#pragma once

#include <optional>

#include "coordinator/http/api_error.h"
#include "coordinator/http/generation_call.h"
#include "coordinator/http/json_fields.h"
#include "coordinator/http/model_info.h"
#include "coordinator/http/structure_fields.h"

namespace trireme {

constexpr int64_t kMaxChoices = 128;  // n, and sequences of one request
constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxStopTokenIds = 128;

// Whether the request's "model" is the served one; an absent name is taken for it.
std::optional<ApiError> check_model(JsonFields& fields, const ModelInfo& model);

// Refuses, by name, what changes the output and this version does not do. A value that asks for
// nothing (presence_penalty 0, tools []) passes.
std::optional<ApiError> check_unsupported(const JsonFields& fields);
// The same for what /v1/responses alone does not do.
std::optional<ApiError> check_unsupported_in_responses(const JsonFields& fields);

// The fields that the generation endpoints share. Errors are left in `fields`. A missing seed is
// drawn here.
void read_generation_fields(JsonFields& fields, const ModelInfo& model, const TextCodec& codec,
                            GenerationCall* call,
                            FormatField format = FormatField::kResponseFormat);

// Prompt and output must fit the context together. `n_max_tokens` as asked for.
std::optional<ApiError> check_fits(size_t n_prompt_tokens, int64_t n_max_tokens,
                                   const ModelInfo& model, const char* prompt_field);

// A lower bound of a text's tokens that needs no tokenizer: so a text far too long is refused
// before work is spent on it.
std::optional<ApiError> check_text_size(size_t n_bytes, const ModelInfo& model,
                                        const char* prompt_field);

ApiError bad_request(const Error& error);

}  // namespace trireme
