#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "coordinator/http/api_error.h"
#include "coordinator/http/generation_call.h"
#include "coordinator/http/json_fields.h"
#include "coordinator/http/model_info.h"

namespace trireme {

constexpr int64_t kMaxTopLogprobs = 20;          // prompt_logprobs; top_logprobs of chats
constexpr int64_t kMaxLogprobEntries = 1 << 18;  // of all choices of a request
constexpr int32_t kMaxPriority = 1000;           // and its negative
constexpr size_t kMaxRequestIdBytes = 128;

// What the answer tells beside its text, and when it is computed: prompt_logprobs,
// return_token_ids, return_tokens_as_token_ids, request_id, priority. After the fields about
// streaming. Errors are left in `fields`.
void read_reply_fields(JsonFields& fields, GenerationCall* call);

// The logprobs told of the prompts are few enough, and those that may be told of the answer, which
// `field` asks for: of one choice as many as fit the context.
std::optional<ApiError> check_logprobs(const GenerationCall& call, const ModelInfo& model,
                                       const char* field);

// truncate_prompt_tokens: only so many of a prompt's last tokens are used.
struct Truncation {
  static constexpr int64_t kNone = 0;
  static constexpr int64_t kToFit = -1;  // as many as there is room for beside the answer
  int64_t n_tokens = kNone;

  bool wanted() const { return n_tokens != kNone; }
  // Whether tokens were cut off. The result may still be too long.
  bool apply(int64_t n_max_tokens, const ModelInfo& model, std::vector<int32_t>* ids) const;
};

Truncation read_truncation(JsonFields& fields, const ModelInfo& model);

}  // namespace trireme
