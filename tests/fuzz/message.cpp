#include <vector>

#include "coordinator/text/message_parser.h"
#include "tests/fuzz/fuzz_input.h"

namespace trireme {
namespace {

// What a client of the stream has in the end, as one text.
std::string parse(const MessageOptions& options, std::string_view text, size_t piece_bytes) {
  MessageParser parser(options);
  std::string content;
  std::string reasoning;
  std::vector<std::string> calls;
  const auto add = [&](const MessagePart& part) {
    content += part.content;
    reasoning += part.reasoning;
    for (const ToolCallPart& call : part.calls) {
      const auto index = static_cast<size_t>(call.index);
      if (!call.name.empty()) {
        TRIREME_CHECK(index == calls.size());
        calls.push_back(call.name + "\n");
      }
      TRIREME_CHECK(index < calls.size());
      calls[index] += call.arguments;
    }
  };
  for (size_t at = 0; at < text.size(); at += piece_bytes)
    add(parser.feed(text.substr(at, piece_bytes)));
  add(parser.finish());
  std::string all = content + "\n" + reasoning;
  for (const std::string& call : calls) all += "\n" + call;
  return all;
}

}  // namespace
}  // namespace trireme

// The first byte chooses how the text after it is read; the cut never matters.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trireme;
  if (size == 0) return 0;
  const MessageOptions options{.tools = static_cast<ToolFormat>(data[0] % 4),
                               .reasoning = (data[0] & 4) != 0,
                               .begins_in_reasoning = (data[0] & 8) != 0};
  const std::string_view text = fuzz::text_of(data + 1, size - 1);
  const std::string whole = parse(options, text, text.size() + 1);
  TRIREME_CHECK(parse(options, text, 1) == whole);
  TRIREME_CHECK(parse(options, text, 1 + data[0] % 7) == whole);
  return 0;
}
