#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "coordinator/text/tokenizer.h"
#include "kernels/result.h"

struct TextGuide;
struct TextGuideFactory;

namespace trireme {

// Follows one generated sequence through a grammar. For one thread at a time.
class Guide {
 public:
  // Sets the bit of each token that may come next: bit i % 32 of words[i / 32]. After the end of
  // the grammar these are the end tokens. words: [ceil(padded_vocab_size / 32)] or fewer.
  Result<bool> mask(std::span<uint32_t> words);

  // Takes the next token; true once the grammar has ended. After that only end tokens are taken. A
  // token that the mask does not have is an error, and the guide is of no use afterwards.
  Result<bool> push(int32_t token);

 private:
  friend class GuideFactory;
  struct Free {
    void operator()(TextGuide* guide) const;
  };
  explicit Guide(TextGuide* guide) : guide_(guide) {}

  std::unique_ptr<TextGuide, Free> guide_;
};

// Makes guides for one model. Safe to use from several threads.
class GuideFactory {
 public:
  // `padded_vocab_size`: the columns of the model's logits. `end_tokens`: the tokens that end a
  // sequence, at least one. An error for tokenizers whose tokens are not bytes (WordPiece and
  // such).
  static Result<GuideFactory> create(const Tokenizer& tokenizer, int padded_vocab_size,
                                     std::span<const int32_t> end_tokens);

  // `tag`: json_schema, json_object, regex or lark; `grammar` in that language ("" for
  // json_object). The error says what is wrong with the grammar.
  Result<Guide> make(std::string_view tag, std::string_view grammar) const;

 private:
  GuideFactory() = default;

  std::shared_ptr<TextGuideFactory> factory_;
};

}  // namespace trireme
