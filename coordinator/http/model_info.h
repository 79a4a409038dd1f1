#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/text/message_parser.h"

namespace trireme {

struct ClassifierHead;

// The served model as clients see it.
struct ModelInfo {
  std::string id;
  int64_t created = 0;         // seconds since 1970
  int32_t context_length = 0;  // prompt and output together, in tokens
  int32_t vocab_size = 0;
  std::vector<int32_t> eos_token_ids;
  // How it writes calls of tools and its reasoning.
  ToolFormat tool_format = ToolFormat::kNone;
  bool has_reasoning = false;
  int32_t hidden_size = 0;                           // of an embedding
  std::string other_pooling;                         // model/pooling_config: no embeddings
  std::shared_ptr<const ClassifierHead> classifier;  // null: none
  bool has_lm_head = true;                           // false: it generates no text
};

}  // namespace trireme
