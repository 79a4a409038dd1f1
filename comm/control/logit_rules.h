#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace trireme {

struct TokenBias {
  int32_t token_id = 0;
  float bias = 0.0F;
};

// How a sequence's logits are changed before a token is drawn from them, in this order: only
// allowed_token_ids remain; tokens that would complete a bad word, and before min_tokens the
// end_token_ids, are banned; biases are added; then each token of prompt or output is divided by
// repetition_penalty (multiplied, where negative), and each token that the output has n times
// loses frequency_penalty * n and presence_penalty. The order and the meanings are vLLM's. Made
// once a request; a sequence without any has none.
struct LogitRules {
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  float repetition_penalty = 1.0F;
  int32_t min_tokens = 0;
  std::vector<int32_t> end_token_ids;
  std::vector<TokenBias> biases;                // by id, each once
  std::vector<int32_t> allowed_token_ids;       // ascending; empty: all
  std::vector<std::vector<int32_t>> bad_words;  // none empty

  bool has_penalties() const {
    return presence_penalty != 0.0F || frequency_penalty != 0.0F || repetition_penalty != 1.0F;
  }
  bool is_empty() const {
    return !has_penalties() && min_tokens == 0 && biases.empty() && allowed_token_ids.empty() &&
           bad_words.empty();
  }
  // How many output tokens before a token tell whether it completes a bad word.
  size_t n_tail() const {
    size_t longest = 1;
    for (const std::vector<int32_t>& word : bad_words) longest = std::max(longest, word.size());
    return longest - 1;
  }
};

struct TokenCount {
  int32_t token_id = 0;
  int32_t n_output = 0;  // how often the output has it; 0: only the prompt does
};

// The rules of the sequence that begins in a slot, and what they need to know of its tokens so far:
// not all of those go through the model again. The rank that samples keeps it with the slot and
// adds what it draws.
struct SlotRules {
  std::shared_ptr<const LogitRules> rules;
  std::vector<TokenCount> seen;      // with penalties: every token of prompt and output, once
  std::vector<int32_t> output_tail;  // the last of the output, at most rules->n_tail()
};

}  // namespace trireme
