#include "coordinator/text/guide.h"

#include <fmt/format.h>

#include "coordinator/text/rust_answer.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr size_t kMaxGrammarBytes = size_t{1} << 20;

}  // namespace

void Guide::Free::operator()(TextGuide* guide) const { trireme_text_guide_free(guide); }

Result<bool> Guide::mask(std::span<uint32_t> words) {
  detail::RustAnswer answer;
  if (trireme_text_guide_mask(guide_.get(), words.data(), words.size(), answer.out()) != 0) {
    return Error{"the grammar cannot go on: " + answer.text(), ""};
  }
  return true;
}

Result<bool> Guide::push(int32_t token) {
  TRIREME_CHECK(token >= 0);
  detail::RustAnswer answer;
  const int status =
      trireme_text_guide_push(guide_.get(), static_cast<uint32_t>(token), answer.out());
  if (status != 0) {
    return Error{"the grammar does not take the token: " + answer.text(), ""};
  }
  return answer.flag();
}

Result<GuideFactory> GuideFactory::create(const Tokenizer& tokenizer, int padded_vocab_size,
                                          std::span<const int32_t> end_tokens) {
  TRIREME_CHECK(padded_vocab_size > 0);
  detail::RustAnswer answer;
  GuideFactory factory;
  factory.factory_.reset(
      trireme_text_guide_factory_new(tokenizer.handle(), static_cast<uint32_t>(padded_vocab_size),
                                     end_tokens.data(), end_tokens.size(), answer.out()),
      trireme_text_guide_factory_free);
  if (!factory.factory_) {
    return Error{"this model's tokenizer cannot follow grammars: " + answer.text(), ""};
  }
  return factory;
}

Result<Guide> GuideFactory::make(std::string_view tag, std::string_view grammar) const {
  if (grammar.size() > kMaxGrammarBytes) {
    return Error{fmt::format("the grammar has {} bytes, more than the {} that are taken",
                             grammar.size(), kMaxGrammarBytes),
                 ""};
  }
  detail::RustAnswer answer;
  TextGuide* guide = trireme_text_guide_new(factory_.get(), tag.data(), tag.size(), grammar.data(),
                                            grammar.size(), answer.out());
  if (guide == nullptr) {
    return Error{"the grammar is refused: " + answer.text(), ""};
  }
  return Guide(guide);
}

}  // namespace trireme
