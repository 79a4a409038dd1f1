#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/serving/inference_service.h"

namespace trireme {

// What one choice of a request was given so far. With the request it is enough to make every byte
// of its answer again.
struct ChoiceLog {
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;  // where the answer shows them: as long as token_ids
  std::vector<std::vector<TokenLogprob>> top_logprobs;  // the same
  std::vector<float> prompt_logprobs;                   // where it shows those: [n_prompt - 1]
  std::string numerics_id;                              // of the group that drew the tokens
  int32_t n_cached_tokens = 0;                          // GenerateEvent::n_cached_tokens
  // What the service said with the last token. An end by a stop string is not said: it is found
  // again in the text.
  FinishReason finish = FinishReason::kNone;
  std::vector<std::vector<TokenLogprob>> prompt_top_logprobs;  // as prompt_logprobs, where shown
  // Of all its events. Not in the journal's file: an answer that a coordinator takes up there
  // counts from then on.
  int32_t n_guessed = 0;
  int32_t n_guessed_right = 0;

  size_t n_tokens() const { return token_ids.size(); }
  // Nothing to tell: no token, and no end without one.
  bool empty() const { return token_ids.empty() && finish == FinishReason::kNone; }
};

void append_event(ChoiceLog& log, const GenerateEvent& event, bool with_logprobs);

// What the log holds from token `begin` on; what comes once with begin == 0 only.
ChoiceLog tail_of(const ChoiceLog& log, size_t begin);
void append_tail(ChoiceLog& log, ChoiceLog tail);

// The log as the events it came from, one a token: so the answer has the same parts again.
size_t n_events(const ChoiceLog& log);
GenerateEvent event_at(const ChoiceLog& log, size_t i);

}  // namespace trireme
