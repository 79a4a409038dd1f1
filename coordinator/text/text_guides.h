#pragma once

#include <memory>
#include <vector>

#include "coordinator/serving/token_guide.h"
#include "coordinator/text/tokenizer.h"

namespace trireme {

// Grammars over a model's tokens (GuideFactory), made ready with the first request that has one: it
// takes a while for large vocabularies. `padded_vocab_size`: the columns of the model's logits.
std::shared_ptr<const GuideMaker> make_text_guides(const Tokenizer& tokenizer,
                                                   int padded_vocab_size,
                                                   std::vector<int32_t> end_tokens);

}  // namespace trireme
