#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/text/call_scanner.h"

namespace trireme {

// How a model writes calls of tools.
enum class ToolFormat : uint8_t {
  kNone,
  kHermes,   // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, also Qwen's
  kLlama3,   // {"name": ..., "parameters": {...}} as the whole message, "; " between calls; maybe
             // after <|python_tag|>
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
};

// What calls begin with, though a whole message in Llama's format may do without; "" for kNone.
std::string_view opening_of(ToolFormat format);
// The format that a chat template teaches; kNone where it teaches none of them.
ToolFormat tool_format_of(std::string_view chat_template);
// Whether a chat template knows of <think>...</think>.
bool has_reasoning(std::string_view chat_template);

// What is to be found in a message.
struct MessageOptions {
  ToolFormat tools = ToolFormat::kNone;
  bool reasoning = false;            // between <think> and </think>
  bool begins_in_reasoning = false;  // the prompt ends with <think>
  bool any() const { return tools != ToolFormat::kNone || reasoning; }
};

// Something new of one call.
struct ToolCallPart {
  int index = 0;
  std::string name;  // not empty: the call begins
  std::string arguments;
};

struct MessagePart {
  std::string content;
  std::string reasoning;
  std::vector<ToolCallPart> calls;
};

// Splits a model's text, as it comes, into what it says, its reasoning and its calls of tools. What
// comes out altogether does not depend on how the text is cut. What looks like a call and is none
// is content, as it was written. Holds no more than a few dozen KiB.
class MessageParser {
 public:
  explicit MessageParser(const MessageOptions& options);

  // Pieces may be cut anywhere. A call begins in a part of its own: its arguments come with later
  // ones.
  MessagePart feed(std::string_view piece);
  // What was held back.
  MessagePart finish();
  bool in_reasoning() const { return place_ == Place::kReasoning; }

 private:
  enum class Place : uint8_t {
    kStart,  // nothing but space so far
    kReasoning,
    kContent,
    kBeforeCall,  // the format's opening was read, or what stands between two calls
    kCall,
    kAfterCall,
    kBetween,  // after a call or the reasoning: space is dropped
  };

  void take(char c);
  void take_all(const std::string& text);
  void take_start(char c);
  void take_reasoning(char c);
  void take_content(char c);
  void take_before_call(char c);
  void take_call(char c);
  void take_after_call(char c);
  void begin_call(char c);
  void not_a_call();
  void give_arguments(int index, const std::string& text);

  MessageOptions options_;
  Place place_;
  std::string held_;    // may become a marker, or is space that one would follow
  std::string opened_;  // what was read of a call that has no name yet
  std::optional<CallScanner> call_;
  bool begun_ = false;    // the call under way has a name
  bool in_list_ = false;  // Mistral's
  int n_calls_ = 0;
  int n_calls_before_ = 0;  // this part
  MessagePart part_;
  std::vector<ToolCallPart> later_;  // arguments of calls that begin in this part
};

}  // namespace trireme
