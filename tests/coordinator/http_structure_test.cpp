// What requests say of the form of their answers, and the grammars that come of it, with real
// tokenizers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "coordinator/http/structure_fields.h"
#include "coordinator/http/tokenizer_codec.h"
#include "coordinator/http/tool_fields.h"
#include "coordinator/text/message_parser.h"
#include "kernels/int_math.h"
#include "tests/coordinator/text_test_data.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

GenerationCall read(const Json& body, std::optional<Error>* error = nullptr) {
  JsonFields fields(body);
  GenerationCall call;
  read_structure_fields(fields, &call);
  if (error != nullptr) {
    *error = fields.error();
  } else {
    EXPECT_FALSE(fields.error()) << fields.error()->message;
  }
  return call;
}

// A model's text side, with its grammars.
struct Text {
  Text(const std::string& folder, int32_t n_tokens, int32_t end)
      : codec(load_tokenizer_codec(test::source_path(folder))),
        vocab_size(n_tokens),
        end_token(end),
        guides(codec->make_guides(n_tokens, {end})) {}

  // A text that the grammar takes, of random tokens; "" when it did not end in time.
  std::string walk(const Grammar& grammar, uint32_t seed, int max_tokens = 400) const {
    std::mt19937 random(seed);
    Result<std::unique_ptr<TokenGuide>> guide = guides->make(grammar);
    EXPECT_TRUE(guide.ok()) << (guide.ok() ? "" : guide.error().message) << grammar.text;
    if (!guide) return "";
    std::vector<int32_t> ids;
    for (int i = 0; i < max_tokens; ++i) {
      std::vector<uint32_t> words(static_cast<size_t>(div_ceil(vocab_size, 32)));
      EXPECT_TRUE((*guide)->mask(words).ok());
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < vocab_size; ++id) {
        if ((words[static_cast<size_t>(id) / 32] >> (id % 32) & 1U) != 0) allowed.push_back(id);
      }
      if (allowed.empty()) return "";
      // Ends soon where it may.
      const bool may_end = std::find(allowed.begin(), allowed.end(), end_token) != allowed.end();
      const int32_t id = may_end ? end_token : allowed[random() % allowed.size()];
      if (id == end_token) return codec->decode(ids, /*skip_special_tokens=*/false);
      ids.push_back(id);
      EXPECT_TRUE((*guide)->push(id).ok());
    }
    return "";
  }

  std::unique_ptr<TextCodec> codec;
  int32_t vocab_size;
  int32_t end_token;
  std::shared_ptr<const GuideMaker> guides;
};

const Text& demo() {
  static const Text text("demo/model", 4096, 3);
  return text;
}

TEST(StructureFields, EveryWayGivesItsGrammar) {
  EXPECT_TRUE(read(Json::object()).grammar.empty());
  EXPECT_TRUE(read({{"response_format", {{"type", "text"}}}}).grammar.empty());
  EXPECT_TRUE(read({{"structured_outputs", {{"json_object", false}}}}).grammar.empty());
  const Json schema = {{"type", "integer"}};
  const GenerationCall by_format =
      read({{"response_format",
             {{"type", "json_schema"}, {"json_schema", {{"name", "n"}, {"schema", schema}}}}}});
  EXPECT_EQ(by_format.grammar.tag, "json_schema");
  EXPECT_EQ(by_format.grammar_field, "response_format.json_schema.schema");
  for (const Json& body :
       {Json{{"structured_outputs", {{"json", schema}}}},
        Json{{"structured_outputs", {{"json", schema.dump()}}}}, Json{{"guided_json", schema}}})
    EXPECT_EQ(read(body).grammar, by_format.grammar) << body;
  EXPECT_EQ(read({{"guided_regex", "a+"}}).grammar, (Grammar{"regex", "a+"}));
  EXPECT_EQ(read({{"structured_outputs", {{"grammar", "start: \"a\""}}}}).grammar,
            (Grammar{"lark", "start: \"a\""}));
  const Json object = {{"response_format", {{"type", "json_object"}}}};
  EXPECT_EQ(read(object).grammar, read({{"guided_json_object", true}}).grammar);
}

TEST(StructureFields, RefusesByName) {
  const auto refused = [](const Json& body) {
    std::optional<Error> error;
    read(body, &error);
    return error ? error->param + ": " + error->message : "taken";
  };
  EXPECT_THAT(refused({{"response_format", {{"type", "xml"}}}}), HasSubstr("response_format.type"));
  EXPECT_THAT(refused({{"response_format", {{"type", "json_schema"}}}}), HasSubstr("\"schema\""));
  EXPECT_THAT(refused({{"structured_outputs", Json::object()}}), HasSubstr("one of json, regex"));
  EXPECT_THAT(refused({{"structured_outputs", {{"regex", "a"}, {"structural_tag", "b"}}}}),
              HasSubstr("structured_outputs.structural_tag"));
  EXPECT_THAT(refused({{"structured_outputs", {{"regex", "a"}, {"choice", {"a"}}}}}),
              HasSubstr("structured_outputs.regex and structured_outputs.choice"));
  EXPECT_THAT(refused({{"guided_regex", "a"}, {"guided_json", Json::object()}}),
              HasSubstr("cannot both be given"));
  EXPECT_THAT(refused({{"guided_regex", 3}}), HasSubstr("guided_regex must be a non-empty string"));
  EXPECT_THAT(refused({{"guided_choice", Json::array()}}), HasSubstr("guided_choice"));
  EXPECT_THAT(refused({{"guided_choice", {"a", ""}}}), HasSubstr("non-empty"));
  EXPECT_THAT(refused({{"guided_json", "[1"}}), HasSubstr("guided_json"));
  EXPECT_THAT(refused({{"guided_json", std::string(100'000, '[')}}), HasSubstr("nested deeper"));
  EXPECT_THAT(refused({{"guided_grammar", "root ::= \"a\""}}), HasSubstr("Lark"));
}

TEST(StructureFields, GrammarsAreCheckedBeforeAnythingRuns) {
  const auto check = [](const Json& body) {
    const auto error = check_grammar(demo().guides.get(), read(body), demo().vocab_size);
    return error ? error->param + ": " + error->message : "taken";
  };
  EXPECT_EQ(check({{"guided_regex", "a+"}}), "taken");
  EXPECT_THAT(check({{"guided_regex", "(("}}), HasSubstr("guided_regex: the grammar"));
  EXPECT_THAT(check({{"guided_grammar", "start: x"}}), HasSubstr("guided_grammar"));
  EXPECT_THAT(check({{"guided_json", {{"type", "no such type"}}}}), HasSubstr("guided_json"));
  EXPECT_THAT(check({{"guided_json", false}}), HasSubstr("guided_json"));
  const auto none = check_grammar(nullptr, read({{"guided_regex", "a"}}), 10);
  ASSERT_TRUE(none.has_value());
  EXPECT_EQ(none->status, 400);
}

TEST(StructureFields, ChoicesComeOutAsTheyAre) {
  const Json choices = {"plain", "quo\"te \\ and\nline", "ü €", "{\"a\": 1}", "/x/ | y"};
  const Grammar grammar = read({{"structured_outputs", {{"choice", choices}}}}).grammar;
  std::set<std::string> seen;
  for (uint32_t seed = 0; seed < 60; ++seed) seen.insert(demo().walk(grammar, seed));
  std::set<std::string> want;
  for (const Json& choice : choices) want.insert(choice.get<std::string>());
  EXPECT_EQ(seen, want);
}

TEST(StructureFields, JsonHasLittleSpace) {
  const Grammar grammar = read({{"response_format", {{"type", "json_object"}}}}).grammar;
  EXPECT_THAT(grammar.text, HasSubstr("whitespace_pattern"));
  Result<std::unique_ptr<TokenGuide>> guide = demo().guides->make(grammar);
  ASSERT_TRUE(guide.ok());
  const Result<std::vector<int32_t>> begin = demo().codec->encode("{ ", false);
  for (const int32_t id : *begin) ASSERT_TRUE((*guide)->push(id).ok());
  const Result<std::vector<int32_t>> space = demo().codec->encode(" ", false);
  EXPECT_FALSE((*guide)->push(space->front()).ok());
}

const Json kTools = Json::parse(R"([
  {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object",
    "properties": {"city": {"enum": ["Paris", "Köln"]}, "unit": {"$ref": "#/$defs/unit"}},
    "required": ["city", "unit"], "additionalProperties": false,
    "$defs": {"unit": {"enum": ["C", "F"]}}}}},
  {"type": "function", "function": {"name": "now", "parameters": {"type": "object",
    "properties": {}, "additionalProperties": false}}}])");

struct ToolCase {
  ToolFormat format;
  const char* folder;
  int32_t n_tokens;
  int32_t end;
};

class ToolGrammar : public testing::TestWithParam<ToolCase> {};

// What the grammar makes a model say is what the parser reads, with the model's own markers.
TEST_P(ToolGrammar, IsReadBack) {
  const Text text(GetParam().folder, GetParam().n_tokens, GetParam().end);
  const Grammar grammar{"lark",
                        tool_grammar({&kTools[0], &kTools[1]}, GetParam().format, *text.codec, 3)};
  int n_calls = 0;
  int n_several = 0;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const std::string said = text.walk(grammar, seed);
    ASSERT_NE(said, "");
    MessageParser parser({.tools = GetParam().format});
    std::vector<ToolCallPart> parts;
    for (const char c : said) {
      MessagePart part = parser.feed(std::string(1, c));
      EXPECT_EQ(part.content, "") << said;
      parts.insert(parts.end(), part.calls.begin(), part.calls.end());
    }
    EXPECT_EQ(parser.finish().content, "") << said;
    std::map<int, std::pair<std::string, std::string>> calls;
    for (const ToolCallPart& part : parts) {
      calls[part.index].first += part.name;
      calls[part.index].second += part.arguments;
    }
    ASSERT_FALSE(calls.empty()) << said;
    n_several += calls.size() > 1 ? 1 : 0;
    for (const auto& [index, call] : calls) {
      ++n_calls;
      const Json arguments = Json::parse(call.second);
      if (call.first == "now") {
        EXPECT_EQ(arguments, Json::object());
      } else {
        EXPECT_EQ(call.first, "get_weather");
        EXPECT_TRUE(arguments["unit"] == "C" || arguments["unit"] == "F") << said;
      }
    }
  }
  EXPECT_GE(n_calls, 40);
  // The walk ends as soon as it may: only a list's next call comes before that.
  EXPECT_EQ(n_several > 0, GetParam().format == ToolFormat::kMistral);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, ToolGrammar,
    testing::Values(ToolCase{ToolFormat::kHermes, "demo/model", 4096, 3},
                    ToolCase{ToolFormat::kHermes, "tests/data/text/chatml", 640, 602},
                    ToolCase{ToolFormat::kLlama3, "tests/data/text/llama3", 640, 603},
                    ToolCase{ToolFormat::kMistral, "tests/data/text/mistral", 1024, 2}));

GenerationCall read_tools(const Json& body, ToolFormat format, std::string* problem) {
  JsonFields fields(body);
  GenerationCall call;
  ModelInfo model;
  model.tool_format = format;
  read_structure_fields(fields, &call);
  read_tool_fields(fields, model, *demo().codec, &call);
  *problem = fields.error() ? fields.error()->message : "";
  return call;
}

TEST(ToolFields, ChooseHowTheAnswerIsReadAndForced) {
  std::string problem;
  GenerationCall call = read_tools({{"tools", kTools}}, ToolFormat::kHermes, &problem);
  EXPECT_EQ(call.message.tools, ToolFormat::kHermes);
  EXPECT_TRUE(call.grammar.empty());
  call = read_tools({{"tools", kTools}, {"tool_choice", "none"}}, ToolFormat::kHermes, &problem);
  EXPECT_EQ(call.message.tools, ToolFormat::kNone);
  call =
      read_tools({{"tools", kTools}, {"tool_choice", "required"}}, ToolFormat::kLlama3, &problem);
  EXPECT_THAT(call.grammar.text, HasSubstr("{0,15}"));
  call =
      read_tools({{"tools", kTools}, {"tool_choice", "required"}, {"parallel_tool_calls", false}},
                 ToolFormat::kLlama3, &problem);
  EXPECT_EQ(call.grammar.text.find("{0,15}"), std::string::npos);
  const Json named = {{"type", "function"}, {"function", {{"name", "now"}}}};
  call = read_tools({{"tools", kTools}, {"tool_choice", named}}, ToolFormat::kHermes, &problem);
  EXPECT_EQ(call.grammar.text.find("get_weather"), std::string::npos);
  EXPECT_EQ(problem, "");
  EXPECT_FALSE(check_grammar(demo().guides.get(), call, demo().vocab_size));
}

TEST(ToolFields, RefuseByName) {
  const auto refused = [](const Json& body, ToolFormat format = ToolFormat::kHermes) {
    std::string problem;
    read_tools(body, format, &problem);
    return problem;
  };
  EXPECT_EQ(refused({{"tools", Json::array()}, {"tool_choice", "auto"}}, ToolFormat::kNone), "");
  EXPECT_EQ(refused({{"tools", kTools}, {"tool_choice", "none"}}, ToolFormat::kNone), "");
  EXPECT_THAT(refused({{"tools", kTools}}, ToolFormat::kNone), HasSubstr("--tool-call-parser"));
  EXPECT_THAT(refused({{"tools", 3}}), HasSubstr("tools must be a list"));
  EXPECT_THAT(refused({{"tools", {{{"type", "web"}}}}}), HasSubstr("tools[0]"));
  EXPECT_THAT(refused({{"tools", {{{"function", {{"name", "a b"}}}}}}}), HasSubstr("tools[0]"));
  EXPECT_THAT(refused({{"tools", {kTools[0], kTools[0]}}}), HasSubstr("tools[1] has the name"));
  EXPECT_THAT(refused({{"tool_choice", "required"}}), HasSubstr("there are no tools"));
  EXPECT_THAT(refused({{"tools", kTools}, {"tool_choice", "some"}}), HasSubstr("tool_choice must"));
  EXPECT_THAT(refused({{"tools", kTools}, {"tool_choice", {{"function", {{"name", "x"}}}}}}),
              HasSubstr("names no tool"));
  EXPECT_THAT(refused({{"tools", kTools}, {"tool_choice", "required"}, {"guided_regex", "a"}}),
              HasSubstr("only one of them"));
}

}  // namespace
}  // namespace trireme
