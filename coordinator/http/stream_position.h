#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/result.h"

namespace trireme {

// How much of an answer a client has: for each choice, the tokens whose text was sent to it (some
// of the text may still be held back: it comes with later ones). Each event of a stream carries it
// as its id, and Last-Event-ID brings it back. Where events are numbered, the number does.
struct StreamPosition {
  struct Choice {
    int32_t n_tokens = -1;  // -1: nothing, not even what a choice begins with
    bool finished = false;  // its finish_reason too
  };
  std::vector<Choice> choices;  // empty: the events are numbered
  bool usage = false;           // the chunk with the usage too
  int64_t n_events = 0;         // of numbered ones

  // A choice each, separated by dots: "-" for nothing, else its tokens, with an "e" once finished;
  // then ".u" for the usage. Example: "12.9e.-". Or the number of the last event, from 0 on.
  std::string text() const;
  // `text` is "" for the beginning.
  static Result<StreamPosition> parse(std::string_view text, int n_choices, int32_t max_new_tokens);
  // The same where events are numbered.
  static Result<StreamPosition> parse_number(std::string_view text);
};

}  // namespace trireme
