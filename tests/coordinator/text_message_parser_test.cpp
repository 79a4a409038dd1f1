#include "coordinator/text/message_parser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace trireme {
namespace {

struct Call {
  std::string name;
  std::string arguments;
  bool operator==(const Call&) const = default;
};

struct Message {
  std::string content;
  std::string reasoning;
  std::vector<Call> calls;
  bool operator==(const Message&) const = default;

  // As a client of a stream puts it together.
  void add(const MessagePart& part) {
    content += part.content;
    reasoning += part.reasoning;
    for (const ToolCallPart& call : part.calls) {
      const auto index = static_cast<size_t>(call.index);
      if (!call.name.empty()) {
        EXPECT_EQ(index, calls.size()) << "calls begin in order";
        EXPECT_EQ(call.arguments, "") << "a call begins without arguments";
        calls.push_back({call.name, ""});
      }
      ASSERT_LT(index, calls.size()) << "arguments of a call that has not begun";
      calls[index].arguments += call.arguments;
    }
  }
};

std::ostream& operator<<(std::ostream& out, const Message& message) {
  out << "content '" << message.content << "' reasoning '" << message.reasoning << "'";
  for (const Call& call : message.calls) out << " call " << call.name << " " << call.arguments;
  return out;
}

Message parse(const MessageOptions& options, const std::vector<std::string>& pieces) {
  MessageParser parser(options);
  Message message;
  for (const std::string& piece : pieces) message.add(parser.feed(piece));
  message.add(parser.finish());
  return message;
}

std::vector<std::string> cut(const std::string& text, std::mt19937& random) {
  std::vector<std::string> pieces;
  for (size_t at = 0; at < text.size();) {
    const size_t n = std::min<size_t>(1 + random() % 9, text.size() - at);
    pieces.push_back(text.substr(at, n));
    at += n;
  }
  return pieces;
}

struct Case {
  const char* name;
  MessageOptions options;
  std::string text;
  Message want;
};

const MessageOptions kHermes{.tools = ToolFormat::kHermes};
const MessageOptions kLlama{.tools = ToolFormat::kLlama3};
const MessageOptions kMistral{.tools = ToolFormat::kMistral};
const MessageOptions kThinks{.tools = ToolFormat::kHermes, .reasoning = true};
const MessageOptions kThinking{
    .tools = ToolFormat::kNone, .reasoning = true, .begins_in_reasoning = true};

// Outputs as the models of each family write them, and what goes wrong with them.
std::vector<Case> cases() {
  return {
      {"plain", kHermes, "  It is <b>sunny</b>.\n", {"  It is <b>sunny</b>.\n", "", {}}},
      {"hermes",
       kHermes,
       "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"n\": [1, "
       "{}]}}\n</tool_call>",
       {"", "", {{"get_weather", "{\"city\": \"Paris\", \"n\": [1, {}]}"}}}},
      {"hermes_two_after_text",
       kHermes,
       "I will look.\n<tool_call>\n{\"name\": \"a\", \"arguments\": "
       "{}}\n</tool_call>\n<tool_call>\n"
       "{\"arguments\": {\"q\": \"a \\\"}{ b\"}, \"name\": \"b\"}\n</tool_call>\nDone.",
       {"I will look.\nDone.", "", {{"a", "{}"}, {"b", "{\"q\": \"a \\\"}{ b\"}"}}}},
      {"hermes_arguments_as_text",
       kHermes,
       R"(<tool_call>{"name":"a","arguments":"{\"x\": \"ü\"}"}</tool_call>)",
       {"", "", {{"a", "{\"x\": \"ü\"}"}}}},
      {"hermes_no_arguments",
       kHermes,
       "<tool_call>{\"name\": \"now\"}</tool_call>",
       {"", "", {{"now", "{}"}}}},
      {"hermes_cut",
       kHermes,
       "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1",
       {"", "", {{"a", "{\"x\": 1"}}}},
      {"hermes_cut_in_name",
       kHermes,
       "<tool_call>\n{\"name\": \"ge",
       {"<tool_call>\n{\"name\": \"ge", "", {}}},
      {"hermes_no_call",
       kHermes,
       "<tool_call>hello</tool_call> there",
       {"<tool_call>hello</tool_call> there", "", {}}},
      {"hermes_no_name", kHermes, "<tool_call>{\"x\": 1} y", {"<tool_call>{\"x\": 1} y", "", {}}},
      {"hermes_beginning_of_marker", kHermes, "a <tool_ca", {"a <tool_ca", "", {}}},
      {"hermes_repeated_beginning",
       kHermes,
       "<<tool_call>{\"name\":\"a\"}</tool_call>",
       {"<", "", {{"a", "{}"}}}},
      {"hermes_broken_after_name",
       kHermes,
       "<tool_call>{\"name\": \"a\"; </tool_call>ok",
       {"; </tool_call>ok", "", {{"a", ""}}}},
      {"llama",
       kLlama,
       R"({"name": "get_weather", "parameters": {"city": "Paris"}})",
       {"", "", {{"get_weather", "{\"city\": \"Paris\"}"}}}},
      {"llama_tagged_two",
       kLlama,
       R"(<|python_tag|>{"type": "function", "name": "a", "parameters": {"x": 1}}; )"
       R"({"name": "b", "parameters": null})",
       {"", "", {{"a", "{\"x\": 1}"}, {"b", "null"}}}},
      {"llama_json_answer", kLlama, R"({"answer": 42})", {R"({"answer": 42})", "", {}}},
      {"llama_text", kLlama, "A {brace} in text", {"A {brace} in text", "", {}}},
      {"mistral",
       kMistral,
       "[TOOL_CALLS] [{\"name\": \"a\", \"arguments\": {\"x\": [1, 2]}}, {\"name\": \"b\", "
       "\"arguments\": {}}]",
       {"", "", {{"a", "{\"x\": [1, 2]}"}, {"b", "{}"}}}},
      {"mistral_text_around",
       kMistral,
       "Well: [TOOL_CALLS][{\"name\": \"a\", \"arguments\": {}}] so",
       {"Well: so", "", {{"a", "{}"}}}},
      {"mistral_no_list", kMistral, "[TOOL_CALLS]a{}", {"[TOOL_CALLS]a{}", "", {}}},
      {"reasoning",
       kThinks,
       "\n<think>\nhm <tool_call> </thin\n</think>\n\nYes.",
       {"Yes.", "\nhm <tool_call> </thin\n", {}}},
      {"reasoning_then_call",
       kThinks,
       "<think>a</think>\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
       {"", "a", {{"f", "{}"}}}},
      {"no_reasoning", kThinks, "<thin ice> <think>", {"<thin ice> <think>", "", {}}},
      {"begun_reasoning", kThinking, "so</think>Yes", {"Yes", "so", {}}},
      {"endless_reasoning", kThinking, "so </th", {"", "so </th", {}}},
  };
}

TEST(MessageParserTest, ReadsWhatModelsWriteHoweverItIsCut) {
  std::mt19937 random(3);
  for (const Case& each : cases()) {
    SCOPED_TRACE(each.name);
    EXPECT_EQ(parse(each.options, {each.text}), each.want);
    for (int i = 0; i < 200; ++i)
      ASSERT_EQ(parse(each.options, cut(each.text, random)), each.want) << "cut " << i;
  }
}

// Anything at all, of the pieces that mean something.
TEST(MessageParserTest, TheCutNeverMatters) {
  const std::vector<std::string> words = {"<tool_call>",
                                          "</tool_call>",
                                          "[TOOL_CALLS]",
                                          "[",
                                          "]",
                                          "<|python_tag|>",
                                          "{",
                                          "}",
                                          "\"name\"",
                                          ":",
                                          "\"f\"",
                                          "\"arguments\"",
                                          ",",
                                          ";",
                                          " ",
                                          "\n",
                                          "<think>",
                                          "</think>",
                                          "\\",
                                          "\"",
                                          "x",
                                          "{\"name\": \"g\", \"arguments\": {"};
  std::mt19937 random(5);
  int n_calls = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (size_t n = random() % 20; n > 0; --n) text += words[random() % words.size()];
    const MessageOptions options{.tools = static_cast<ToolFormat>(random() % 4),
                                 .reasoning = random() % 2 == 0,
                                 .begins_in_reasoning = random() % 4 == 0};
    const Message whole = parse(options, {text});
    ASSERT_EQ(parse(options, cut(text, random)), whole) << text;
    n_calls += static_cast<int>(whole.calls.size());
    if (options.tools == ToolFormat::kNone && !options.reasoning) EXPECT_EQ(whole.content, text);
  }
  EXPECT_GT(n_calls, 100);
}

TEST(MessageParserTest, HoldsLittle) {
  for (const char* beginning : {"<tool_call>{\"name\": \"", "<tool_call>{\"x\": \"", "   "}) {
    MessageParser parser(kHermes);
    size_t n_out = 0;
    for (int i = 0; i < 3000; ++i) {
      const MessagePart part = parser.feed(i == 0 ? beginning : std::string(100, ' '));
      n_out += part.content.size();
    }
    EXPECT_GT(n_out, size_t{200'000}) << beginning;
  }
}

TEST(MessageParserTest, FormatsAreFoundInTemplates) {
  EXPECT_EQ(tool_format_of("...<tool_call>\\n{\"name\": <function-name>"), ToolFormat::kHermes);
  EXPECT_EQ(tool_format_of("{{ \"[TOOL_CALLS][\" }}"), ToolFormat::kMistral);
  EXPECT_EQ(tool_format_of("{{- '\"parameters\": ' }} <|eot_id|>"), ToolFormat::kLlama3);
  EXPECT_EQ(tool_format_of("<|im_start|>"), ToolFormat::kNone);
  EXPECT_TRUE(has_reasoning("content.split('</think>')"));
  EXPECT_FALSE(has_reasoning("<|im_start|>"));
}

}  // namespace
}  // namespace trireme
