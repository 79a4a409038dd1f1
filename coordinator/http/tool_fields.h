#pragma once

#include <nlohmann/json_fwd.hpp>

#include "coordinator/http/generation_call.h"
#include "coordinator/http/json_fields.h"
#include "coordinator/http/model_info.h"

namespace trireme {

constexpr size_t kMaxTools = 128;
constexpr size_t kMaxToolNameBytes = 64;
constexpr int kMaxForcedCalls = 16;  // of one answer, where tool_choice is "required"

// Reads tools, tool_choice and parallel_tool_calls. Sets how the answer is read, and its grammar
// where a call is forced. Returns the tools that the model is to be told of; null for none.
const nlohmann::ordered_json* read_tool_fields(JsonFields& fields, const ModelInfo& model,
                                               const TextCodec& codec, GenerationCall* call);

// How a model writes calls of these tools, as a Lark grammar: one call, or up to `max_calls`.
// `tools`: [{"function": {"name", "parameters"}}, ...].
std::string tool_grammar(const std::vector<const nlohmann::ordered_json*>& tools, ToolFormat format,
                         const TextCodec& codec, int max_calls);

}  // namespace trireme
