#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <variant>

#include "coordinator/http/api_error.h"
#include "coordinator/http/generation_kind.h"

namespace trireme {

constexpr size_t kMaxBatchLineBytes = 32U << 20;  // as of a request's body
constexpr size_t kMaxCustomIdBytes = 512;

// What a line of a batch asks for.
struct BatchCall {
  const GenerationKind* kind = nullptr;
  nlohmann::ordered_json body;
};

// One line of a batch's input: {"custom_id", "method": "POST", "url", "body"}.
struct BatchLine {
  std::string custom_id = "null";  // as JSON: a string; null where it cannot be known
  std::variant<BatchCall, ApiError> call;
};

// `endpoint`: the only url that may be asked for; empty: any. Other members are passed over.
BatchLine read_batch_line(std::string_view text, std::string_view endpoint);

// How every line of a batch's output begins: {"id":"ID".
std::string batch_line_begin(const std::string& id);

// A line of a batch's output, with its end. `custom_id` and `body` are JSON, the body as an
// endpoint answers.
std::string batch_answer_line(const std::string& id, const std::string& custom_id, int status,
                              const std::string& body);
// Of a request that was never answered.
std::string batch_failure_line(const std::string& id, const std::string& custom_id,
                               const char* code, const std::string& message);
// Whether an output line holds an answer with status 200.
bool is_success_line(std::string_view line);

}  // namespace trireme
