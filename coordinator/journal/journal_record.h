#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/journal/choice_log.h"

namespace trireme {

// A request as it is kept: all that is needed to parse it again and get the same answer.
struct JournaledRequest {
  std::string id;        // of the answer, as its client knows it
  std::string endpoint;  // "/v1/completions"
  std::string key_name;  // of the API key that came with it, "" without: who may ask for it
  std::string weights;   // which model's
  std::string body;      // the JSON as it came
  // What its prompts became: a chat template may put today's date into them.
  std::vector<std::vector<int32_t>> prompts;
  int64_t created = 0;         // seconds since 1970, as the answer says
  uint64_t seed = 0;           // the client's, or the one drawn
  int32_t max_new_tokens = 0;  // the client's, or what the context had room for
  int32_t n_choices = 0;
  bool with_logprobs = false;  // the answer shows them
};

// How an answer ended: whole, or with an error that its client was told.
struct JournaledEnd {
  int status = 200;
  std::string error;  // JSON; empty: whole
};

// A request and its answer so far.
struct JournaledAnswer {
  JournaledRequest request;
  std::vector<ChoiceLog> choices;
  bool ended = false;
  JournaledEnd end;  // once ended
  // Starts of a coordinator since its last new token, each of which was cut short.
  int32_t n_resumes = 0;
};

}  // namespace trireme
