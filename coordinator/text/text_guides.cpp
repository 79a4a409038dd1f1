#include "coordinator/text/text_guides.h"

#include <future>
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
      : factory_(std::async(std::launch::async, [=] {
          return GuideFactory::create(tokenizer, padded_vocab_size, end_tokens);
        })) {}

  Result<std::unique_ptr<TokenGuide>> make(const Grammar& grammar) const override {
    const Result<GuideFactory>& factory = factory_.get();
    if (!factory) return factory.error();
    Result<Guide> guide = factory->make(grammar.tag, grammar.text);
    if (!guide) return guide.error();
    return std::unique_ptr<TokenGuide>(std::make_unique<TextTokenGuide>(*std::move(guide)));
  }

 private:
  const std::shared_future<Result<GuideFactory>> factory_;
};

}  // namespace

std::shared_ptr<const GuideMaker> make_text_guides(const Tokenizer& tokenizer,
                                                   int padded_vocab_size,
                                                   const std::vector<int32_t>& end_tokens) {
  return std::make_shared<TextGuides>(tokenizer, padded_vocab_size, end_tokens);
}

}  // namespace trireme
