#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <variant>
#include <vector>

#include "coordinator/http/api_error.h"
#include "coordinator/http/model_info.h"
#include "coordinator/http/reply_fields.h"
#include "coordinator/http/text_codec.h"

namespace trireme {

// The prompts of a field in any of its four forms (a string, a list of strings, token ids, a list
// of lists of ids), before any text is encoded: strings stay JSON strings, ids lists of numbers.
std::variant<std::vector<const nlohmann::ordered_json*>, ApiError> list_prompts(
    const nlohmann::ordered_json& value, const char* field, size_t max_count);

// How the prompts of a field are encoded.
struct PromptForm {
  const char* field = "prompt";
  bool add_special_tokens = true;
  Truncation truncation;
  int64_t n_max_tokens = 0;  // to be generated after each
};

struct EncodedPrompt {
  std::vector<int32_t> ids;
  bool cut = false;  // by truncation
};

// One of list_prompts(), checked to fit the context.
std::variant<EncodedPrompt, ApiError> encode_prompt(const nlohmann::ordered_json& prompt,
                                                    const PromptForm& form, const ModelInfo& model,
                                                    const TextCodec& codec);

}  // namespace trireme
