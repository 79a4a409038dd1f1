#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPath = "/v1/chat/completions";

Json user(const Json& content) { return Json::array({{{"role", "user"}, {"content", content}}}); }

class HttpChat : public testing::Test {
 protected:
  ClientResponse post(const Json& body) { return client_.post(kPath, body); }

  std::string last_prompt() const {
    const std::vector<int32_t> ids = server_.service.requests().back().prompt_ids;
    return server_.codec.decode(ids, false);
  }

  void expect_refused(const Json& body, const std::string& param, const std::string& in_message) {
    const ClientResponse response = post(body);
    EXPECT_EQ(response.status, 400) << body << response.body;
    const Json error = response.json()["error"];
    EXPECT_EQ(error["param"], param) << response.body;
    EXPECT_THAT(error["message"].get<std::string>(), testing::HasSubstr(in_message));
  }

  TestServer server_;
  TestClient client_{server_.port()};
};

TEST_F(HttpChat, Answers) {
  const Json json =
      post({{"model", "fake"}, {"messages", user("Hi")}, {"max_completion_tokens", 4}}).json();
  EXPECT_TRUE(json["id"].get<std::string>().starts_with("chatcmpl-"));
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["choices"], Json::parse(R"([{"index":0,
      "message":{"role":"assistant","content":"Once"},
      "logprobs":null,"finish_reason":"length"}])"));
  EXPECT_EQ(last_prompt(), "<user>Hi<assistant>");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 19);
}

TEST_F(HttpChat, WithoutMaxTokensTheContextIsTheLimit) {
  const Json json = post({{"messages", user("Hi")}}).json();
  EXPECT_EQ(json["choices"][0]["message"]["content"], "Once upon a time");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(server_.service.requests().back().max_new_tokens, 256 - 19);
}

TEST_F(HttpChat, Streams) {
  server_.service.set_mode(FakeService::Mode::kSilent);
  const Json body = {{"messages", user("Hi")},
                     {"max_tokens", 2},
                     {"n", 2},
                     {"stream", true},
                     {"stream_options", {{"include_usage", true}}}};
  client_.send(post_text(kPath, body.dump()));
  ASSERT_TRUE(server_.service.wait_for_requests(2));
  server_.service.release();  // both choices run from here, a token of each at a time
  const std::vector<std::string> events = client_.read_response().events();
  ASSERT_EQ(events.size(), 2U + 4U + 2U);
  std::map<int, std::string> texts;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const Json chunk = Json::parse(events[i]);
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    const Json choice = chunk["choices"][0];
    EXPECT_EQ(choice["delta"].contains("role"), i < 2) << events[i];
    ASSERT_TRUE(choice["delta"]["content"].is_string());
    texts[choice["index"]] += choice["delta"]["content"];
    EXPECT_EQ(choice["finish_reason"], i >= 4 ? Json("length") : Json()) << events[i];
  }
  EXPECT_EQ(texts[0], "On");
  EXPECT_EQ(texts[1], "nc");
  EXPECT_EQ(Json::parse(events[6])["usage"]["completion_tokens"], 4);
  EXPECT_EQ(events[7], "[DONE]");
}

TEST_F(HttpChat, TextParts) {
  const Json parts = {{{"type", "text"}, {"text", "one"}}, {{"type", "text"}, {"text", "two"}}};
  ASSERT_EQ(post({{"messages", user(parts)}, {"max_tokens", 1}}).status, 200);
  EXPECT_EQ(last_prompt(), "<user>one\ntwo<assistant>");
  const Json image = {{{"type", "image_url"}, {"image_url", {{"url", "x"}}}}};
  expect_refused({{"messages", user(image)}}, "messages", "messages[0].content[0]");
}

TEST_F(HttpChat, ContinuesAMessage) {
  Json messages = user("Hi");
  messages.push_back({{"role", "assistant"}, {"content", "We"}});
  const Json body = {{"messages", messages}, {"continue_final_message", true}, {"max_tokens", 1}};
  ASSERT_EQ(post(body).status, 200);
  EXPECT_EQ(last_prompt(), "<user>Hi<assistant>We");
}

TEST_F(HttpChat, Logprobs) {
  const Json json =
      post({{"messages", user("Hi")}, {"max_tokens", 1}, {"logprobs", true}, {"top_logprobs", 2}})
          .json();
  EXPECT_EQ(json["choices"][0]["logprobs"], Json::parse(R"({"content":[
      {"token":"O","logprob":-0.5,"bytes":[79],"top_logprobs":[
        {"token":"O","logprob":-0.5,"bytes":[79]},{"token":"P","logprob":-1.5,"bytes":[80]}]}]})"));
  expect_refused({{"messages", user("Hi")}, {"top_logprobs", 2}}, "top_logprobs", "logprobs: true");
}

TEST_F(HttpChat, RefusesBadMessages) {
  expect_refused(Json::object(), "messages", "missing");
  expect_refused({{"messages", Json::array()}}, "messages", "at least one");
  expect_refused({{"messages", "Hi"}}, "messages", "a list");
  expect_refused({{"messages", {1}}}, "messages", "messages[0]");
  expect_refused({{"messages", Json::array({{{"content", "x"}}})}}, "messages", "role");
  expect_refused({{"messages", Json::array({{{"role", "user"}}})}}, "messages", "content");
  expect_refused({{"messages", user(5)}}, "messages", "content must be");
  expect_refused({{"messages", Json::array({{{"role", "bad"}, {"content", "x"}}})}}, "messages",
                 "does not know");
}

TEST_F(HttpChat, RefusesWhatItCannotDo) {
  const Json unsupported = {{"reasoning_effort", "low"},
                            {"audio", {{"voice", "x"}}},
                            {"modalities", {"text", "audio"}},
                            {"web_search_options", Json::object()}};
  for (const auto& [name, value] : unsupported.items()) {
    Json body = {{"messages", user("Hi")}};
    body[name] = value;
    expect_refused(body, name, "not supported in this version");
  }
  const Json harmless = {{"messages", user("Hi")},     {"tools", Json::array()},
                         {"tool_choice", "auto"},      {"response_format", {{"type", "text"}}},
                         {"modalities", {"text"}},     {"store", true},
                         {"metadata", Json::object()}, {"logit_bias", nullptr},
                         {"frequency_penalty", 0.0},   {"max_tokens", 1}};
  EXPECT_EQ(post(harmless).status, 200);
}

TEST_F(HttpChat, OverlongInputIsRefusedWithBothNumbers) {
  expect_refused({{"messages", user(std::string(300, 'a'))}}, "messages", "256 tokens");
  expect_refused({{"messages", user(std::string(300, 'a'))}}, "messages", "317 in messages");
  expect_refused({{"messages", user("Hi")}, {"max_tokens", 257}}, "max_tokens", "256");
  const std::string metrics = client_.get("/metrics").body;
  EXPECT_THAT(metrics, testing::HasSubstr("reason=\"context_length\"} 2"));
}

}  // namespace
}  // namespace trireme
