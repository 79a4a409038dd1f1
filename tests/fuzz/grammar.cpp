#include <vector>

#include "coordinator/text/guide.h"
#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

constexpr int kPadding = 16;  // columns of the logits that are no token
constexpr int kMaxTokens = 8;

struct Model {
  Tokenizer tokenizer;
  int32_t end_token;
  GuideFactory factory;
};

Model load_model() {
  Tokenizer tokenizer = Tokenizer::load(TRIREME_SOURCE_DIR "/tests/data/text/chatml");
  const int32_t end = *tokenizer.eos_token_id();
  auto factory = GuideFactory::create(tokenizer, tokenizer.vocab_size() + kPadding, {{end}});
  TRIREME_CHECK(factory.ok());
  return {std::move(tokenizer), end, *std::move(factory)};
}

// Ids that may come next; none where the grammar has reached one of its limits.
std::vector<int32_t> allowed_ids(Guide& guide, int vocab_size) {
  std::vector<uint32_t> words(static_cast<size_t>(vocab_size + kPadding + 31) / 32);
  const Result<bool> masked = guide.mask(words);
  if (!masked) {
    fuzz::check_message(masked.error().message);
    return {};
  }
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < static_cast<int32_t>(words.size() * 32); ++id) {
    if ((words[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0) ids.push_back(id);
  }
  TRIREME_CHECK(!ids.empty() && ids.back() < vocab_size);
  return ids;
}

// What the mask allows is taken, and what it does not is refused: no free text gets through.
void follow(Guide guide, const Model& model, uint32_t random) {
  const int vocab_size = model.tokenizer.vocab_size();
  for (int i = 0; i < kMaxTokens; ++i) {
    const std::vector<int32_t> ids = allowed_ids(guide, vocab_size);
    if (ids.empty()) return;
    if (i + 1 == kMaxTokens) {
      int32_t outside = 0;
      while (static_cast<size_t>(outside) < ids.size() &&
             ids[static_cast<size_t>(outside)] == outside) {
        ++outside;
      }
      if (outside < vocab_size) TRIREME_CHECK(!guide.push(outside).ok());
      return;
    }
    random = random * 1664525U + 1013904223U;
    const Result<bool> pushed = guide.push(ids[(random >> 8) % ids.size()]);
    if (!pushed) return fuzz::check_message(pushed.error().message);
  }
}

}  // namespace
}  // namespace trireme

// The input is a line with the grammar's kind, then the grammar.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  static const Model model = load_model();
  const std::string_view text = fuzz::text_of(data, size);
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return 0;
  Result<Guide> guide = model.factory.make(text.substr(0, end), text.substr(end + 1));
  if (guide) {
    follow(*std::move(guide), model, static_cast<uint32_t>(size));
  } else {
    fuzz::check_message(guide.error().message);
  }
  return 0;
}
