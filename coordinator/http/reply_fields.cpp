#include "coordinator/http/reply_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace trireme {
namespace {

// It stands in JSON, in paths and in log lines.
bool is_plain(const std::string& id) {
  return std::all_of(id.begin(), id.end(), [](char c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return letter || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == ':';
  });
}

void read_request_id(JsonFields& fields, GenerationCall* call) {
  call->request_id = fields.string("request_id", "");
  if (call->request_id.size() > kMaxRequestIdBytes || !is_plain(call->request_id)) {
    fields.fail("request_id",
                fmt::format("request_id must have at most {} characters, of letters, digits and "
                            "\"-_.:\", not {}",
                            kMaxRequestIdBytes, shown(nlohmann::ordered_json(call->request_id))));
  }
}

// Each of the tokens, of all choices, has `n_each` logprobs.
std::optional<ApiError> check_entries(const char* field, const char* tokens, int64_t n_tokens,
                                      int64_t n_each, int64_t limit) {
  const int64_t n_entries = n_tokens * n_each;
  if (n_entries <= limit) return std::nullopt;
  return ApiError{.status = 400,
                  .message = fmt::format("{}: {} {} of all choices with {} logprobs each are {} "
                                         "entries; the limit is {}",
                                         field, n_tokens, tokens, n_each, n_entries, limit),
                  .param = field,
                  .code = ""};
}

}  // namespace

void read_reply_fields(JsonFields& fields, GenerationCall* call) {
  if (fields.has("prompt_logprobs")) {
    call->n_prompt_logprobs =
        static_cast<int32_t>(fields.integer("prompt_logprobs", 0, 0, kMaxTopLogprobs));
    if (call->stream) {
      fields.fail("prompt_logprobs", "prompt_logprobs may not be given with stream: true");
    }
  }
  call->return_token_ids = fields.boolean("return_token_ids", false);
  call->tokens_as_ids = fields.boolean("return_tokens_as_token_ids", false);
  call->priority = static_cast<int32_t>(fields.integer("priority", 0, -kMaxPriority, kMaxPriority));
  // Read for its type: there are no spaces between special tokens either way.
  fields.boolean("spaces_between_special_tokens", true);
  read_request_id(fields, call);
}

std::optional<ApiError> check_logprobs(const GenerationCall& call, const ModelInfo& model,
                                       const char* field) {
  const bool told = call.n_logprobs != kNoLogprobs;
  const bool listed = call.n_prompt_logprobs != kNoLogprobs;
  const int64_t n_of_drawn = told ? call.n_logprobs + 1 : 0;
  const int64_t n_of_prompt =
      (listed ? call.n_prompt_logprobs + 1 : 0) + (call.echo ? n_of_drawn : 0);
  if (auto error = check_entries(listed ? "prompt_logprobs" : field, "prompt tokens",
                                 call.n_prompt_tokens() * call.n, n_of_prompt, kMaxLogprobEntries))
    return error;
  const int64_t limit = std::max(kMaxLogprobEntries, (kMaxTopLogprobs + 1) * model.context_length);
  return check_entries(field, "tokens to generate", int64_t{call.n_choices()} * call.max_new_tokens,
                       n_of_drawn, limit);
}

Truncation read_truncation(JsonFields& fields, const ModelInfo& model) {
  constexpr const char* kName = "truncate_prompt_tokens";
  const int64_t n =
      fields.integer(kName, Truncation::kNone, Truncation::kToFit, model.context_length);
  if (fields.has(kName) && n == Truncation::kNone) {
    fields.fail(kName, fmt::format("truncate_prompt_tokens must be -1 or between 1 and {}, not 0",
                                   model.context_length));
  }
  return {.n_tokens = n};
}

bool Truncation::apply(int64_t n_max_tokens, const ModelInfo& model,
                       std::vector<int32_t>* ids) const {
  if (!wanted()) return false;
  const int64_t room = std::max<int64_t>(model.context_length - n_max_tokens, 1);
  const int64_t n_kept = n_tokens == kToFit ? room : n_tokens;
  const int64_t n_cut = static_cast<int64_t>(ids->size()) - n_kept;
  if (n_cut <= 0) return false;
  ids->erase(ids->begin(), ids->begin() + n_cut);
  return true;
}

}  // namespace trireme
