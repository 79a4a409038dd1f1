#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "coordinator/serving/token_guide.h"

namespace trireme::fake {

constexpr int32_t kVocabSize = 97;
constexpr int32_t kEos = 0;

inline uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9E3779B97F4A7C15U + b + 0x7F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

using MaskWords = std::vector<uint32_t>;
inline MaskWords no_words() { return MaskWords((kVocabSize + 31) / 32); }
inline bool allows(const MaskWords& words, int32_t id) {
  return (words[static_cast<size_t>(id) / 32] >> (id % 32) & 1U) != 0;
}

// A grammar is its length in tokens, and "!n" behind it when it fails after n of them. What may
// come next is a function of all tokens so far; after its length, the end token alone.
class Guide final : public TokenGuide {
 public:
  explicit Guide(const std::string& text) {
    const size_t fails = text.find('!');
    length_ = std::stoi(text.substr(0, fails));
    fails_at_ = fails == std::string::npos ? -1 : std::stoi(text.substr(fails + 1));
  }

  Result<bool> mask(std::span<uint32_t> words) override {
    if (n_tokens_ == fails_at_) return Error{"the grammar cannot go on", ""};
    const MaskWords now = words_now();
    std::copy(now.begin(), now.end(), words.begin());
    return true;
  }

  Result<bool> push(int32_t token_id) override {
    if (!allows(words_now(), token_id)) return Error{"the grammar does not take the token", ""};
    state_ = mix(state_, static_cast<uint64_t>(token_id));
    return ++n_tokens_ >= length_;
  }

 private:
  MaskWords words_now() const {
    MaskWords words = no_words();
    const auto set = [&](int32_t id) { words[static_cast<size_t>(id) / 32] |= 1U << (id % 32); };
    if (n_tokens_ >= length_) {
      set(kEos);
      return words;
    }
    set(1 + static_cast<int32_t>(state_ % (kVocabSize - 1)));
    for (int32_t id = 1; id < kVocabSize; ++id) {
      if (mix(state_, static_cast<uint64_t>(id)) % 8 == 0) set(id);
    }
    return words;
  }

  int32_t length_ = 0;
  int32_t fails_at_ = -1;
  int32_t n_tokens_ = 0;
  uint64_t state_ = 1;
};

class Guides final : public GuideMaker {
 public:
  Result<std::unique_ptr<TokenGuide>> make(const Grammar& grammar) const override {
    if (grammar.tag != "fake") return Error{"the grammar is refused", ""};
    return std::unique_ptr<TokenGuide>(std::make_unique<Guide>(grammar.text));
  }
};

}  // namespace trireme::fake
