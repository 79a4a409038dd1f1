#include "coordinator/text/text_guides.h"

#include <mutex>
#include <optional>
#include <utility>

#include "coordinator/text/guide.h"

namespace trireme {
namespace {

class TextTokenGuide final : public TokenGuide {
 public:
  explicit TextTokenGuide(Guide guide) : guide_(std::move(guide)) {}
  Result<bool> mask(std::span<uint32_t> words) override { return guide_.mask(words); }
  Result<bool> push(int32_t token_id) override { return guide_.push(token_id); }

 private:
  Guide guide_;
};

class TextGuides final : public GuideMaker {
 public:
  TextGuides(const Tokenizer& tokenizer, int padded_vocab_size, std::vector<int32_t> end_tokens)
      : tokenizer_(tokenizer),
        padded_vocab_size_(padded_vocab_size),
        end_tokens_(std::move(end_tokens)) {}

  Result<std::unique_ptr<TokenGuide>> make(const Grammar& grammar) const override {
    std::call_once(once_, [this] {
      factory_.emplace(GuideFactory::create(tokenizer_, padded_vocab_size_, end_tokens_));
    });
    if (!factory_->ok()) return factory_->error();
    Result<Guide> guide = (*factory_)->make(grammar.tag, grammar.text);
    if (!guide) return guide.error();
    return std::unique_ptr<TokenGuide>(std::make_unique<TextTokenGuide>(*std::move(guide)));
  }

 private:
  const Tokenizer tokenizer_;
  const int padded_vocab_size_;
  const std::vector<int32_t> end_tokens_;
  mutable std::once_flag once_;
  mutable std::optional<Result<GuideFactory>> factory_;
};

}  // namespace

std::shared_ptr<const GuideMaker> make_text_guides(const Tokenizer& tokenizer,
                                                   int padded_vocab_size,
                                                   std::vector<int32_t> end_tokens) {
  return std::make_shared<TextGuides>(tokenizer, padded_vocab_size, std::move(end_tokens));
}

}  // namespace trireme
