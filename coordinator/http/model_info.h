#pragma once

#include <cstdint>
#include <string>

#include "coordinator/text/message_parser.h"

namespace trireme {

// The served model as clients see it.
struct ModelInfo {
  std::string id;
  int64_t created = 0;         // seconds since 1970
  int32_t context_length = 0;  // prompt and output together, in tokens
  int32_t vocab_size = 0;
  // How it writes calls of tools and its reasoning.
  ToolFormat tool_format = ToolFormat::kNone;
  bool has_reasoning = false;
};

}  // namespace trireme
