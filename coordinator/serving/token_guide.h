#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/result.h"

namespace trireme {

// What an answer must obey, in a language that the GuideMaker knows. Empty: nothing.
struct Grammar {
  std::string tag;  // the language
  std::string text;
  bool empty() const { return tag.empty(); }
  bool operator==(const Grammar&) const = default;
};

// Follows one sequence through its grammar. A function of the grammar and the tokens pushed. For
// one thread at a time. After an error it is of no use.
class TokenGuide {
 public:
  virtual ~TokenGuide() = default;
  // Sets the bit of each token that may come next (bit i % 32 of words[i / 32]), one at least:
  // after the end of the grammar those of the end tokens.
  virtual Result<bool> mask(std::span<uint32_t> words) = 0;
  // Takes the next token.
  virtual Result<bool> push(int32_t token_id) = 0;
};

// Makes guides for one model. Thread-safe.
class GuideMaker {
 public:
  virtual ~GuideMaker() = default;
  // The error says what is wrong with the grammar. Bounded in time and memory.
  virtual Result<std::unique_ptr<TokenGuide>> make(const Grammar& grammar) const = 0;
};

}  // namespace trireme
