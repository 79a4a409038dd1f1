// Calls of tools and reasoning over HTTP, from texts as models write them; the fake model's format
// is Hermes'.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPath = "/v1/chat/completions";
constexpr const char* kTwoCalls =
    "I look.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": \"ü\"}}\n</tool_call>\n"
    "<tool_call>\n{\"name\": \"b\", \"arguments\": {}}\n</tool_call>";

const Json kTools = Json::parse(
    R"([{"type":"function","function":{"name":"a"}},{"type":"function","function":{"name":"b"}}])");

class HttpTools : public testing::Test {
 protected:
  static Json body(const Json& tools) {
    Json body = {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}};
    if (!tools.is_null()) body["tools"] = tools;
    return body;
  }
  Json choice(const Json& body) {
    const ClientResponse response = client_.post(kPath, body);
    EXPECT_EQ(response.status, 200) << response.body;
    return response.json()["choices"][0];
  }
  std::string last_prompt() const {
    return server_.codec.decode(server_.service.requests().back().prompt_ids, false);
  }

  TestServer server_;
  TestClient client_{server_.port()};
};

TEST_F(HttpTools, CallsAreTakenOutOfTheText) {
  server_.service.set_script(kTwoCalls);
  const Json said = choice(body(kTools));
  EXPECT_EQ(said["finish_reason"], "tool_calls");
  EXPECT_EQ(said["message"]["content"], "I look.\n");
  const Json calls = said["message"]["tool_calls"];
  ASSERT_EQ(calls.size(), 2U);
  EXPECT_EQ(calls[0]["function"], (Json{{"name", "a"}, {"arguments", "{\"x\": \"ü\"}"}}));
  EXPECT_EQ(calls[1]["function"], (Json{{"name", "b"}, {"arguments", "{}"}}));
  EXPECT_EQ(calls[0]["type"], "function");
  EXPECT_NE(calls[0]["id"], calls[1]["id"]);
  EXPECT_EQ(last_prompt(), "<2 tools><user>Hi<assistant>");
}

TEST_F(HttpTools, ContentIsNullBesideCallsAlone) {
  server_.service.set_script("<tool_call>{\"name\": \"a\"}</tool_call>");
  EXPECT_EQ(choice(body(kTools))["message"]["content"], nullptr);
}

TEST_F(HttpTools, TextStaysTextWithoutTools) {
  server_.service.set_script(kTwoCalls);
  Json none = body(kTools);
  none["tool_choice"] = "none";
  for (const Json& request : {body(nullptr), body(Json::array()), none}) {
    const Json said = choice(request);
    EXPECT_EQ(said["message"]["content"], kTwoCalls);
    EXPECT_FALSE(said["message"].contains("tool_calls"));
    EXPECT_EQ(said["finish_reason"], "stop");
    EXPECT_EQ(last_prompt(), "<user>Hi<assistant>");
  }
}

TEST_F(HttpTools, StreamsAsOpenAiDoes) {
  server_.service.set_script(kTwoCalls);
  Json request = body(kTools);
  request["stream"] = true;
  std::string content;
  std::map<int, std::string> arguments;
  std::map<int, std::string> names;
  std::string finish;
  const std::vector<std::string> events = client_.post(kPath, request).events();
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const Json part = Json::parse(events[i])["choices"][0];
    const Json delta = part["delta"];
    if (delta.contains("content")) content += delta["content"];
    for (const Json& call : delta.value("tool_calls", Json::array())) {
      const int index = call["index"];
      if (names.count(index) == 0) {
        EXPECT_EQ(call["type"], "function");
        EXPECT_EQ(call["id"].get<std::string>().size(), 9U);
        EXPECT_EQ(call["function"]["arguments"], "");
        names[index] = call["function"]["name"];
      } else {
        EXPECT_FALSE(call.contains("id"));
        EXPECT_FALSE(call["function"].contains("name"));
        arguments[index] += call["function"]["arguments"];
      }
    }
    if (part["finish_reason"].is_string()) finish = part["finish_reason"];
  }
  EXPECT_EQ(content, "I look.\n");
  EXPECT_EQ(names, (std::map<int, std::string>{{0, "a"}, {1, "b"}}));
  EXPECT_EQ(arguments, (std::map<int, std::string>{{0, "{\"x\": \"ü\"}"}, {1, "{}"}}));
  EXPECT_EQ(finish, "tool_calls");
}

TEST_F(HttpTools, ACutCallEndsByLength) {
  server_.service.set_script(kTwoCalls);
  Json request = body(kTools);
  request["max_tokens"] = 60;
  EXPECT_EQ(choice(request)["finish_reason"], "length");
}

TEST_F(HttpTools, ReasoningIsSplitOff) {
  server_.service.set_script("<think>\nhm\n</think>\n\nYes");
  Json said = choice(body(nullptr));
  EXPECT_EQ(said["message"]["reasoning_content"], "\nhm\n");
  EXPECT_EQ(said["message"]["content"], "Yes");
  EXPECT_EQ(said["finish_reason"], "stop");
  // The template has opened it.
  server_.service.set_script("hm</think>Yes");
  const Json opened = {{"messages", {{{"role", "user"}, {"content", "Hi<think>\n"}}}},
                       {"add_generation_prompt", false}};
  said = choice(opened);
  EXPECT_EQ(said["message"]["reasoning_content"], "hm");
  EXPECT_EQ(said["message"]["content"], "Yes");
  Json stream = opened;
  stream["stream"] = true;
  std::string reasoning;
  const std::vector<std::string> events = client_.post(kPath, stream).events();
  for (size_t i = 0; i + 1 < events.size(); ++i)
    reasoning += Json::parse(events[i])["choices"][0]["delta"].value("reasoning_content", "");
  EXPECT_EQ(reasoning, "hm");
}

TEST_F(HttpTools, CallsAndResultsReachTheTemplate) {
  server_.service.set_script("ok");
  const Json call = {{"id", "1"},
                     {"type", "function"},
                     {"function", {{"name", "a"}, {"arguments", "{\"x\": 1}"}}}};
  Json request = body(kTools);
  request["messages"].push_back(
      {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", {call}}});
  request["messages"].push_back({{"role", "tool"}, {"tool_call_id", "1"}, {"content", "17"}});
  choice(request);
  EXPECT_THAT(last_prompt(), testing::HasSubstr("\"arguments\":{\"x\":1}"));
  EXPECT_THAT(last_prompt(), testing::HasSubstr("<tool>17<assistant>"));
  for (const Json& bad :
       {Json(3), Json{{"function", 1}}, Json{{"function", {{"name", "a"}, {"arguments", "{"}}}}}) {
    request["messages"][1]["tool_calls"] = Json::array({bad});
    const ClientResponse response = client_.post(kPath, request);
    EXPECT_EQ(response.status, 400);
    EXPECT_THAT(response.body, testing::HasSubstr("messages[1].tool_calls[0]"));
  }
}

TEST_F(HttpTools, GrammarsAreRefusedWhereThereAreNoGuides) {
  Json request = body(kTools);
  request["tool_choice"] = "required";
  const ClientResponse response = client_.post(kPath, request);
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.json()["error"]["param"], "tools");
  EXPECT_TRUE(server_.service.requests().empty());
}

}  // namespace
}  // namespace trireme
