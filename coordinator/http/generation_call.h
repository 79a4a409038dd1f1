#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/control/step_plan.h"
#include "coordinator/http/tensor_reply.h"
#include "coordinator/http/text_codec.h"
#include "coordinator/serving/token_guide.h"
#include "coordinator/text/message_parser.h"

namespace trireme {

constexpr int32_t kNoLogprobs = -1;

struct Prompt {
  std::vector<int32_t> ids;
  std::string text;  // for echo
};

// What a request for text asks for, checked: every sequence of it fits the context.
struct GenerationCall {
  std::vector<Prompt> prompts;
  int32_t n = 1;  // choices computed for each prompt
  int32_t max_new_tokens = 16;
  int32_t n_logprobs = kNoLogprobs;  // 0: of the drawn token only
  SamplingParams sampling;
  std::vector<int32_t> stop_token_ids;
  TextStreamOptions text;
  bool ignore_eos = false;
  bool echo = false;
  bool stream = false;
  bool include_usage = false;               // a last chunk with the usage
  bool continuous_usage = false;            // the usage in every chunk
  std::shared_ptr<const LogitRules> rules;  // null: none
  int32_t n_prompt_logprobs = kNoLogprobs;  // prompt_logprobs; 0: of the prompt's own tokens only
  bool return_token_ids = false;
  bool tokens_as_ids = false;  // "token_id:7" for a token's text in logprobs
  int32_t priority = 0;
  int32_t n_best = 0;        // best_of: of a prompt's n candidates only so many are told; 0: all
  bool beam_search = false;  // n is its width
  float length_penalty = 1.0F;
  std::vector<int32_t> search_end_ids;  // tokens that end a beam
  std::string request_id;               // the client's; "": none
  std::string tenant;                   // GenerateRequest::tenant
  std::string cache_salt;               // GenerateRequest::cache_salt
  bool tell_cached = true;  // the usage has cached and guessed tokens: what ran before decides them
  // What the output obeys, and the field that says so.
  Grammar grammar;
  std::string grammar_field;
  MessageOptions message;  // how a chat's text is read
  // Of /v1/responses: what the answer repeats of the request, a JSON object; "": another endpoint.
  std::string response_fields;
  TensorReply tensors;  // how an inference's answer is told

  // The events of its stream have numbers, which say what a client has.
  bool numbered() const { return !response_fields.empty(); }
  bool wants_prompt_logprobs() const {
    return (echo && n_logprobs != kNoLogprobs) || n_prompt_logprobs != kNoLogprobs;
  }
  // Logprobs of drawn tokens are shown or compared.
  bool uses_logprobs() const { return n_logprobs != kNoLogprobs || n_best > 0; }
  int n_choices() const { return static_cast<int>(prompts.size()) * n; }
  int64_t n_prompt_tokens() const {
    int64_t total = 0;
    for (const Prompt& prompt : prompts) total += static_cast<int64_t>(prompt.ids.size());
    return total;
  }
};

}  // namespace trireme
