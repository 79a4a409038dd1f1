#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/control/step_plan.h"
#include "coordinator/http/text_codec.h"
#include "coordinator/serving/token_guide.h"
#include "coordinator/text/message_parser.h"

namespace trireme {

constexpr int32_t kNoLogprobs = -1;

struct Prompt {
  std::vector<int32_t> ids;
  std::string text;  // for echo
};

// What a completion or chat request asks for, checked: every sequence of it fits the context.
struct GenerationCall {
  std::vector<Prompt> prompts;
  int32_t n = 1;  // choices per prompt
  int32_t max_new_tokens = 16;
  int32_t n_logprobs = kNoLogprobs;  // 0: of the drawn token only
  SamplingParams sampling;
  std::vector<int32_t> stop_token_ids;
  TextStreamOptions text;
  bool ignore_eos = false;
  bool echo = false;
  bool stream = false;
  bool include_usage = false;     // a last chunk with the usage
  bool continuous_usage = false;  // the usage in every chunk
  // What the output obeys, and the field that says so.
  Grammar grammar;
  std::string grammar_field;
  MessageOptions message;  // how a chat's text is read

  int n_choices() const { return static_cast<int>(prompts.size()) * n; }
  int64_t n_prompt_tokens() const {
    int64_t total = 0;
    for (const Prompt& prompt : prompts) total += static_cast<int64_t>(prompt.ids.size());
    return total;
  }
};

}  // namespace trireme
