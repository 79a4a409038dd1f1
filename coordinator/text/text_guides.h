#pragma once

#include <memory>
#include <vector>

#include "coordinator/serving/token_guide.h"
#include "coordinator/text/tokenizer.h"

namespace trireme {

// Grammars over a model's tokens (GuideFactory). They are made ready on a thread of their own,
// which takes a second for 128k tokens; the first request waits for it. `padded_vocab_size`: the
// columns of the model's logits.
std::shared_ptr<const GuideMaker> make_text_guides(const Tokenizer& tokenizer,
                                                   int padded_vocab_size,
                                                   const std::vector<int32_t>& end_tokens);

}  // namespace trireme
