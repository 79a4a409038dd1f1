#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "coordinator/http/api_error.h"
#include "coordinator/http/generation_call.h"
#include "coordinator/http/json_fields.h"
#include "coordinator/serving/token_guide.h"

namespace trireme {

// A JSON schema (an object or a boolean) as a guide takes it. Between the parts of what it
// describes there may be one space or a line break with indentation; in `one_line`, as in most
// training data, only a space after a comma or a colon.
std::string schema_text(nlohmann::ordered_json schema, bool one_line = false);

// Where a request says, as OpenAI has it, which form its text is to have.
enum class FormatField : uint8_t {
  kResponseFormat,  // response_format, its schema in json_schema
  kText,            // text.format, its schema beside the type
};

// Reads the format field, structured_outputs and its older names (guided_json, ...): what the
// output has to obey. At most one of them.
void read_structure_fields(JsonFields& fields, GenerationCall* call,
                           FormatField format = FormatField::kResponseFormat);

// Compiles the call's grammar, if it has one, and finds what it may begin with. Bounded in time and
// memory. The error names the field that the grammar came from. `guides` null: there are none.
std::optional<ApiError> check_grammar(const GuideMaker* guides, const GenerationCall& call,
                                      int32_t vocab_size);

// What is said of a grammar that cannot be followed, whenever that shows.
ApiError grammar_refusal(const GenerationCall& call, const std::string& why);

}  // namespace trireme
