#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kPath = "/v1/responses";
constexpr const char* kTwoCalls =
    "I look.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": \"ü\"}}\n</tool_call>\n"
    "<tool_call>\n{\"name\": \"b\", \"arguments\": {}}\n</tool_call>";

const Json kTools =
    Json::parse(R"([{"type":"function","name":"a"},{"type":"function","name":"b"}])");

struct StreamEvent {
  std::string id;  // "" for none
  Json data;
};

// Each event has the name that its data says, and a number one above that of the event before.
std::vector<StreamEvent> read_events(const std::string& body) {
  std::vector<StreamEvent> events;
  for (size_t begin = 0; begin < body.size();) {
    const size_t end = body.find("\n\n", begin);
    if (end == std::string::npos) {
      ADD_FAILURE() << "an event without its end: " << body.substr(begin);
      break;
    }
    StreamEvent event;
    std::string name;
    for (std::string_view lines = std::string_view(body).substr(begin, end - begin + 1);
         !lines.empty(); lines.remove_prefix(lines.find('\n') + 1)) {
      const std::string line(lines.substr(0, lines.find('\n')));
      if (line.starts_with("id: ")) event.id = line.substr(4);
      if (line.starts_with("event: ")) name = line.substr(7);
      if (line.starts_with("data: ")) event.data = Json::parse(line.substr(6));
    }
    EXPECT_EQ(event.data["type"], name);
    if (!events.empty()) {
      EXPECT_EQ(event.data["sequence_number"],
                events.back().data["sequence_number"].get<int>() + 1);
    }
    events.push_back(std::move(event));
    begin = end + 2;
  }
  return events;
}

std::vector<std::string> types_of(const std::vector<StreamEvent>& events) {
  std::vector<std::string> types;
  for (const StreamEvent& event : events) {
    const std::string type = event.data["type"];
    if (types.empty() || types.back() != type) types.push_back(type);
  }
  return types;
}

// What events of one type say of one item, joined.
std::string joined(const std::vector<StreamEvent>& events, const std::string& type, int item) {
  std::string text;
  for (const StreamEvent& event : events) {
    if (event.data["type"] == type && event.data["output_index"] == item)
      text += event.data["delta"];
  }
  return text;
}

// Ids are drawn.
Json without_ids(Json output) {
  for (Json& item : output) {
    item.erase("id");
    item.erase("call_id");
  }
  return output;
}

class HttpResponses : public testing::Test {
 protected:
  Json answer(const Json& body) {
    const ClientResponse response = client_.post(kPath, body);
    EXPECT_EQ(response.status, 200) << response.body;
    return response.json();
  }
  std::vector<StreamEvent> stream(Json body) {
    body["stream"] = true;
    const ClientResponse response = client_.post(kPath, body);
    EXPECT_EQ(response.status, 200) << response.body;
    return read_events(response.body);
  }
  std::string last_prompt() const {
    return server_.codec.decode(server_.service.requests().back().prompt_ids, false);
  }
  void expect_refused(const Json& body, const std::string& param, const std::string& in_message) {
    const ClientResponse response = client_.post(kPath, body);
    EXPECT_EQ(response.status, 400) << body << response.body;
    const Json error = response.json()["error"];
    EXPECT_EQ(error["param"], param) << response.body;
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(in_message));
  }

  TestServer server_;
  TestClient client_{server_.port()};
};

TEST_F(HttpResponses, Answers) {
  const Json json = answer({{"model", "fake"},
                            {"input", "Hi"},
                            {"instructions", "Be brief."},
                            {"temperature", 0.7},
                            {"metadata", {{"k", "v"}}},
                            {"store", true},
                            {"include", Json::array({"reasoning.encrypted_content"})}});
  EXPECT_EQ(last_prompt(), "<system>Be brief.<user>Hi<assistant>");
  EXPECT_TRUE(json["id"].get<std::string>().starts_with("resp_"));
  EXPECT_EQ(json["object"], "response");
  EXPECT_EQ(json["status"], "completed");
  EXPECT_EQ(json["error"], nullptr);
  EXPECT_EQ(json["incomplete_details"], nullptr);
  EXPECT_EQ(json["model"], "fake");
  EXPECT_EQ(json["instructions"], "Be brief.");
  EXPECT_EQ(json["temperature"], 0.7);
  EXPECT_EQ(json["metadata"], Json::parse(R"({"k":"v"})"));
  EXPECT_EQ(json["store"], false);
  EXPECT_EQ(json["text"], Json::parse(R"({"format":{"type":"text"}})"));
  EXPECT_EQ(without_ids(json["output"]), Json::parse(R"([{"type":"message","status":"completed",
      "role":"assistant","content":[{"type":"output_text","text":"Once upon a time",
      "annotations":[],"logprobs":[]}]}])"));
  EXPECT_EQ(json["usage"], Json::parse(R"({"input_tokens":36,
      "input_tokens_details":{"cached_tokens":35},"output_tokens":17,
      "output_tokens_details":{"reasoning_tokens":0},"total_tokens":53})"));
}

TEST_F(HttpResponses, ACutAnswerIsIncomplete) {
  const Json json = answer({{"input", "Hi"}, {"max_output_tokens", 4}});
  EXPECT_EQ(json["status"], "incomplete");
  EXPECT_EQ(json["incomplete_details"]["reason"], "max_output_tokens");
  EXPECT_EQ(json["output"][0]["status"], "incomplete");
  EXPECT_EQ(json["output"][0]["content"][0]["text"], "Once");
  EXPECT_EQ(json["max_output_tokens"], 4);
  const auto events = stream({{"input", "Hi"}, {"max_output_tokens", 4}});
  EXPECT_EQ(events.back().data["type"], "response.incomplete");
  EXPECT_EQ(without_ids(events.back().data["response"]["output"]), without_ids(json["output"]));
}

TEST_F(HttpResponses, ItemsBecomeMessages) {
  answer(Json::parse(R"({"input": [
      {"role": "developer", "content": "Short."},
      {"type": "message", "role": "user", "content": [
        {"type": "input_text", "text": "Sum"}, {"type": "input_text", "text": "up"}]},
      {"type": "reasoning", "id": "rs", "summary": [], "content": [
        {"type": "reasoning_text", "text": "hm"}]},
      {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": [
        {"type": "output_text", "text": "I look.", "annotations": []}]},
      {"type": "function_call", "call_id": "1", "name": "a", "arguments": "{\"x\": 1}"},
      {"type": "function_call", "call_id": "2", "name": "b", "arguments": ""},
      {"type": "function_call_output", "call_id": "1", "output": "17"},
      {"type": "function_call_output", "call_id": "2", "output": [
        {"type": "input_text", "text": "18"}]}]})"));
  EXPECT_EQ(last_prompt(),
            "<developer>Short.<user>Sum\nup<assistant>I look."
            R"([{"id":"1","type":"function","function":{"name":"a","arguments":{"x":1}}},)"
            R"({"id":"2","type":"function","function":{"name":"b","arguments":{}}}])"
            "<tool>17<tool>18<assistant>");
}

TEST_F(HttpResponses, CallsAndReasoningAreItems) {
  server_.service.set_script(std::string("<think>hm</think>") + kTwoCalls);
  const Json json = answer({{"input", "Hi"}, {"tools", kTools}});
  EXPECT_EQ(last_prompt(), "<2 tools><user>Hi<assistant>");
  const Json output = json["output"];
  ASSERT_EQ(output.size(), 4U);
  EXPECT_EQ(output[0]["type"], "reasoning");
  EXPECT_EQ(output[0]["summary"], Json::array());
  EXPECT_EQ(output[0]["content"], Json::parse(R"([{"type":"reasoning_text","text":"hm"}])"));
  EXPECT_EQ(output[1]["content"][0]["text"], "I look.\n");
  EXPECT_EQ(output[2]["type"], "function_call");
  EXPECT_EQ(output[2]["name"], "a");
  EXPECT_EQ(output[2]["arguments"], "{\"x\": \"ü\"}");
  EXPECT_EQ(output[2]["status"], "completed");
  EXPECT_EQ(output[3]["name"], "b");
  EXPECT_NE(output[2]["call_id"], output[3]["call_id"]);
  EXPECT_EQ(json["tools"], kTools);
  EXPECT_EQ(json["tool_choice"], "auto");
  // Of "<think>" the byte that makes it one, "hm", and "</think>".
  EXPECT_EQ(json["usage"]["output_tokens_details"]["reasoning_tokens"], 1 + 2 + 8);
}

TEST_F(HttpResponses, StreamsTheTextsEvents) {
  const auto events = stream({{"input", "Hi"}});
  EXPECT_THAT(types_of(events),
              ElementsAre("response.created", "response.in_progress", "response.output_item.added",
                          "response.content_part.added", "response.output_text.delta",
                          "response.output_text.done", "response.content_part.done",
                          "response.output_item.done", "response.completed"));
  EXPECT_EQ(events.front().data["sequence_number"], 0);
  EXPECT_EQ(events.front().data["response"]["status"], "in_progress");
  EXPECT_EQ(events.front().data["response"]["output"], Json::array());
  EXPECT_EQ(events.front().data["response"]["usage"], nullptr);
  EXPECT_EQ(events[2].data["item"]["content"], Json::array());
  EXPECT_EQ(events[3].data["part"]["text"], "");
  EXPECT_EQ(joined(events, "response.output_text.delta", 0), "Once upon a time");
  const Json last = events.back().data["response"];
  EXPECT_EQ(last["id"], events.front().data["response"]["id"]);
  EXPECT_EQ(last["usage"]["output_tokens"], 17);
  EXPECT_EQ(last["output"][0], events[events.size() - 2].data["item"]);
  EXPECT_EQ(last["output"][0]["id"], events[4].data["item_id"]);
  EXPECT_EQ(without_ids(last["output"]), without_ids(answer({{"input", "Hi"}})["output"]));
}

TEST_F(HttpResponses, StreamsCallsOneAfterTheOther) {
  server_.service.set_script(std::string("<think>hm</think>") + kTwoCalls);
  const Json body = {{"input", "Hi"}, {"tools", kTools}};
  const auto events = stream(body);
  EXPECT_THAT(
      types_of(events),
      ElementsAre("response.created", "response.in_progress", "response.output_item.added",
                  "response.content_part.added", "response.reasoning_text.delta",
                  "response.reasoning_text.done", "response.content_part.done",
                  "response.output_item.done", "response.output_item.added",
                  "response.content_part.added", "response.output_text.delta",
                  "response.output_text.done", "response.content_part.done",
                  "response.output_item.done", "response.output_item.added",
                  "response.function_call_arguments.delta", "response.function_call_arguments.done",
                  "response.output_item.done", "response.output_item.added",
                  "response.function_call_arguments.delta", "response.function_call_arguments.done",
                  "response.output_item.done", "response.completed"));
  EXPECT_EQ(joined(events, "response.reasoning_text.delta", 0), "hm");
  EXPECT_EQ(joined(events, "response.output_text.delta", 1), "I look.\n");
  EXPECT_EQ(joined(events, "response.function_call_arguments.delta", 2), "{\"x\": \"ü\"}");
  EXPECT_EQ(joined(events, "response.function_call_arguments.delta", 3), "{}");
  EXPECT_EQ(without_ids(events.back().data["response"]["output"]),
            without_ids(answer(body)["output"]));
}

// Text that was held back comes at once: then a call's arguments come behind the next one's name.
TEST_F(HttpResponses, StreamsCallsThatComeAtOnce) {
  server_.service.set_script(std::string(kTwoCalls) + " Done");
  const Json body = {
      {"input", "Hi"}, {"tools", kTools}, {"stop", std::string(kTwoCalls) + " Don't"}};
  const auto events = stream(body);
  EXPECT_EQ(joined(events, "response.function_call_arguments.delta", 1), "{\"x\": \"ü\"}");
  EXPECT_EQ(joined(events, "response.function_call_arguments.delta", 2), "{}");
  int n_open = 0;
  for (const StreamEvent& event : events) {
    if (event.data["type"] == "response.output_item.added") ++n_open;
    if (event.data["type"] == "response.output_item.done") --n_open;
  }
  EXPECT_EQ(n_open, 0);
  EXPECT_EQ(without_ids(events.back().data["response"]["output"]),
            without_ids(answer(body)["output"]));
  EXPECT_EQ(events.back().data["response"]["status"], "completed");
}

TEST_F(HttpResponses, EventsDoNotDependOnHowTokensCome) {
  server_.service.set_script("ab#");
  const auto one_by_one = stream({{"input", "Hi"}, {"stop", "#"}});
  server_.service.set_mode(FakeService::Mode::kEndless);
  const auto at_once = stream({{"input", "Hi"}, {"stop", "#"}});
  ASSERT_EQ(at_once.size(), one_by_one.size());
  for (size_t i = 0; i < at_once.size(); ++i) {
    EXPECT_EQ(at_once[i].data["type"], one_by_one[i].data["type"]);
    EXPECT_EQ(at_once[i].data.value("delta", ""), one_by_one[i].data.value("delta", ""));
  }
}

TEST_F(HttpResponses, AFailedStreamSaysSo) {
  server_.service.set_mode(FakeService::Mode::kBreak);
  const auto events = stream({{"input", "Hi"}});
  const Json last = events.back().data;
  EXPECT_EQ(last["type"], "response.failed");
  EXPECT_EQ(last["response"]["status"], "failed");
  EXPECT_EQ(last["response"]["error"]["code"], "server_error");
  EXPECT_THAT(last["response"]["error"]["message"].get<std::string>(), HasSubstr("fell over"));
  EXPECT_EQ(last["response"]["output"][0]["status"], "incomplete");
  EXPECT_EQ(client_.post(kPath, Json{{"input", "Hi"}}).status, 500);
}

TEST_F(HttpResponses, RefusesByName) {
  const auto with = [](const char* name, const Json& value) {
    Json body = {{"input", "Hi"}};
    body[name] = value;
    return body;
  };
  expect_refused(with("background", true), "background", "background = true");
  expect_refused(with("previous_response_id", "resp_1"), "previous_response_id", "stored");
  expect_refused(with("conversation", "conv_1"), "conversation", "stored");
  expect_refused(with("reasoning", {{"effort", "low"}}), "reasoning", "not supported");
  expect_refused(with("truncation", "auto"), "truncation", "not supported");
  expect_refused(with("n", 2), "n", "not supported");
  expect_refused(with("max_tokens", 2), "max_tokens", "use max_output_tokens");
  expect_refused(with("response_format", {{"type", "text"}}), "response_format", "text.format");
  expect_refused(with("max_output_tokens", 0), "max_output_tokens", "between 1 and 256");
  expect_refused(with("max_output_tokens", 250), "input", "context length is 256");
  expect_refused(with("text", 1), "text", "text must be an object");
  expect_refused(with("text", {{"format", {{"type", "x"}}}}), "text.format", "text.format.type");
  expect_refused(with("text", {{"format", {{"type", "json_schema"}, {"name", "n"}}}}),
                 "text.format", "schema");
  // There are no guides: the schema was found.
  expect_refused(with("text", {{"format", {{"type", "json_schema"}, {"schema", Json::object()}}}}),
                 "text.format.schema", "cannot follow");
  expect_refused(with("tools", Json::array({{{"type", "web_search"}}})), "tools",
                 "tools[0].type must be \"function\", not \"web_search\"");
  expect_refused(with("tools", Json::array({{{"type", "function"}}})), "tools", "tools[0].name");
  expect_refused(with("tool_choice", {{"type", "mcp"}}), "tool_choice", "tool_choice must be");
  expect_refused(with("tool_choice", "required"), "tool_choice", "there are no tools");
  EXPECT_EQ(answer(with("background", false))["background"], false);
  EXPECT_EQ(answer(with("reasoning", {{"effort", nullptr}}))["status"], "completed");
}

TEST_F(HttpResponses, RefusesInputByItsPlace) {
  const auto expect = [this](const char* input, const char* in_message) {
    expect_refused({{"input", Json::parse(input)}}, "input", in_message);
  };
  expect_refused(Json::object(), "input", "input is missing");
  expect("[]", "at least one item");
  expect("7", "not 7");
  expect(R"(["x"])", "input[0] must be an object");
  expect(R"([{"role": "user"}])", "input[0].content is missing");
  expect(R"([{"content": "x"}])", "input[0].role");
  expect(R"([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}])",
         "input[0].content[0] must be");
  expect(R"([{"role": "user", "content": "x"}, {"type": "item_reference", "id": "x"}])",
         "input[1].type");
  expect(R"([{"type": "function_call", "name": "a", "arguments": "{}"}])", "input[0].call_id");
  expect(R"([{"type": "function_call", "name": "a", "call_id": "1", "arguments": "{"}])",
         "input[0].arguments");
  expect(R"([{"type": "function_call_output", "output": "x"}])", "input[0].call_id");
  expect(R"([{"type": "reasoning", "content": "x"}])", "input[0].content");
}

TEST(HttpResponsesJournal, EveryEventIsAPlaceToGoOnFrom) {
  const TempFolder folder;
  Journal journal({.path = folder / "journal"});
  TestServer server({}, &journal);
  server.service.set_script(kTwoCalls);
  const Json body = {{"input", "Hi"}, {"tools", kTools}, {"stream", true}};
  const std::string all = TestClient(server.port()).post(kPath, body).body;
  const std::vector<StreamEvent> events = read_events(all);
  ASSERT_GT(events.size(), 20U);
  const std::string id = events.front().data["response"]["id"];
  const std::string path = std::string(kPath) + "/" + id;
  size_t begin = 0;
  for (const StreamEvent& event : events) {
    EXPECT_EQ(event.id, event.data["sequence_number"].dump());
    begin = all.find("\n\n", begin) + 2;
    const auto rest =
        TestClient(server.port()).get(path + "?stream=true&starting_after=" + event.id);
    EXPECT_EQ(rest.body, all.substr(begin)) << event.id;
  }
  EXPECT_EQ(TestClient(server.port()).get(path + "?stream=true").body, all);
  EXPECT_EQ(TestClient(server.port()).get(path).json()["output"],
            events.back().data["response"]["output"]);
  for (const char* wrong : {"-", "x", "-1", "1e", "99999999999"}) {
    EXPECT_EQ(TestClient(server.port()).get(path + "?starting_after=" + wrong).status, 400);
  }
}

}  // namespace
}  // namespace trireme
