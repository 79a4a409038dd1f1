#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "coordinator/text/tokenizer.h"

namespace trireme {

// Turns a growing sequence of tokens into a growing text. What it has given out never changes,
// never ends inside a UTF-8 character, and adds up to what decoding all tokens at once gives.
class Detokenizer {
 public:
  // `prompt`: the tokens before the first one pushed. Their text is not given out; it only settles
  // whether the first token starts with a space.
  Detokenizer(Tokenizer tokenizer, bool skip_special_tokens, std::span<const int32_t> prompt = {});

  // The text that is new and final with this token; often empty, for example inside a character.
  std::string push(int32_t token);

  // What is still held back: the bytes of an unfinished character come out as U+FFFD.
  std::string finish();

 private:
  std::string flush_all();
  void start_after(std::span<const int32_t> tokens);

  Tokenizer tokenizer_;
  bool skip_special_tokens_;
  // The tokens not yet given out in full, after the ones before them, which decoders look at.
  std::vector<int32_t> window_;
  size_t n_context_ = 0;  // how many of window_ are given out in full
  std::string sent_;      // the part of window_'s text that is given out
};

}  // namespace trireme
