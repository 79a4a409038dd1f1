#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPath = "/v1/completions";

class HttpCompletions : public testing::Test {
 protected:
  ClientResponse post(const Json& body) { return client_.post(kPath, body); }

  void expect_refused(const Json& body, const std::string& param, const std::string& in_message) {
    const ClientResponse response = post(body);
    EXPECT_EQ(response.status, 400) << body << response.body;
    const Json error = response.json()["error"];
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_EQ(error["param"], param) << response.body;
    EXPECT_THAT(error["message"].get<std::string>(), testing::HasSubstr(in_message));
  }

  TestServer server_;
  TestClient client_{server_.port()};
};

TEST_F(HttpCompletions, AnswersAStringPrompt) {
  const ClientResponse response = post({{"model", "fake"}, {"prompt", "Tell"}, {"max_tokens", 4}});
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.headers.at("content-type"), "application/json");
  const Json json = response.json();
  EXPECT_TRUE(json["id"].get<std::string>().starts_with("cmpl-"));
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_EQ(json["model"], "fake");
  EXPECT_EQ(json["choices"], Json::parse(R"([{"index":0,"text":"Once","logprobs":null,
                                               "finish_reason":"length"}])"));
  EXPECT_EQ(json["usage"], Json::parse(R"({"prompt_tokens":4,"completion_tokens":4,
                                           "total_tokens":8})"));
  const GenerateRequest request = server_.service.requests().at(0);
  EXPECT_EQ(request.prompt_ids, (std::vector<int32_t>{'T', 'e', 'l', 'l'}));
  EXPECT_FLOAT_EQ(request.sampling.temperature, 1.0F);
}

TEST_F(HttpCompletions, DefaultsAndEndOfSequence) {
  server_.service.set_script("Hi");
  const Json json = post({{"prompt", "x"}}).json();
  EXPECT_EQ(json["choices"][0]["text"], "Hi");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json["usage"]["completion_tokens"], 3);  // the end token counts
  EXPECT_EQ(server_.service.requests().at(0).max_new_tokens, 16);
}

TEST_F(HttpCompletions, PassesSamplingFieldsOn) {
  const ClientResponse response = post({{"prompt", "x"},
                                        {"temperature", 0.5},
                                        {"top_p", 0.75},
                                        {"top_k", 10},
                                        {"seed", 42},
                                        {"ignore_eos", true},
                                        {"stop_token_ids", {5, 7}},
                                        {"user", "someone"},
                                        {"presence_penalty", 0},
                                        {"made_up", 1}});
  ASSERT_EQ(response.status, 200) << response.body;
  const GenerateRequest request = server_.service.requests().at(0);
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.5F);
  EXPECT_FLOAT_EQ(request.sampling.top_p, 0.75F);
  EXPECT_EQ(request.sampling.top_k, 10);
  EXPECT_EQ(request.sampling.seed, 42U);
  EXPECT_TRUE(request.ignore_eos);
  EXPECT_EQ(request.stop_token_ids, (std::vector<int32_t>{5, 7}));
}

TEST_F(HttpCompletions, TakesEveryFormOfPrompt) {
  EXPECT_EQ(post({{"prompt", {"a", "bc"}}, {"max_tokens", 1}}).json()["choices"].size(), 2U);
  EXPECT_EQ(post({{"prompt", {65, 66}}, {"max_tokens", 1}}).json()["usage"]["prompt_tokens"], 2);
  const Json lists = post({{"prompt", {{65}, {66, 67}}}, {"max_tokens", 1}}).json();
  EXPECT_EQ(lists["choices"].size(), 2U);
  EXPECT_EQ(lists["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(server_.service.requests().back().prompt_ids, (std::vector<int32_t>{66, 67}));
}

TEST_F(HttpCompletions, SeveralChoices) {
  const Json json = post({{"prompt", {"a", "b"}}, {"n", 2}, {"max_tokens", 3}, {"seed", 1}}).json();
  ASSERT_EQ(json["choices"].size(), 4U) << json;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["text"], i % 2 == 0 ? "Onc" : "nce");
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 2);  // a prompt counts once, whatever n
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);
}

TEST_F(HttpCompletions, Streams) {
  const ClientResponse response = post({{"prompt", "x"},
                                        {"max_tokens", 4},
                                        {"stream", true},
                                        {"stream_options", {{"include_usage", true}}}});
  ASSERT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("content-type"), "text/event-stream; charset=utf-8");
  const std::vector<std::string> events = response.events();
  ASSERT_EQ(events.size(), 6U);  // four tokens, the usage, the end
  EXPECT_EQ(events.back(), "[DONE]");
  std::string text;
  std::set<std::string> ids;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const Json chunk = Json::parse(events[i]);
    EXPECT_EQ(chunk["object"], "text_completion");
    EXPECT_TRUE(chunk["usage"].is_null());
    text += chunk["choices"][0]["text"];
    ids.insert(chunk["id"]);
    EXPECT_EQ(chunk["choices"][0]["finish_reason"], i == 3 ? Json("length") : Json());
  }
  EXPECT_EQ(text, "Once");
  EXPECT_EQ(ids.size(), 1U);
  const Json usage = Json::parse(events[4]);
  EXPECT_EQ(usage["choices"], Json::array());
  EXPECT_EQ(usage["usage"]["total_tokens"], 5);
  // The connection is still good.
  EXPECT_EQ(client_.get("/ping").status, 200);
}

TEST_F(HttpCompletions, UsageOnlyWhenAskedFor) {
  const Json body = {{"prompt", "x"}, {"max_tokens", 2}, {"stream", true}};
  const std::vector<std::string> plain = post(body).events();
  ASSERT_EQ(plain.size(), 3U);
  EXPECT_FALSE(Json::parse(plain[0]).contains("usage"));
  Json continuous = body;
  continuous["stream_options"] = {{"include_usage", true}, {"continuous_usage_stats", true}};
  const std::vector<std::string> events = post(continuous).events();
  EXPECT_EQ(Json::parse(events[0])["usage"]["completion_tokens"], 1);
  EXPECT_EQ(Json::parse(events[1])["usage"]["completion_tokens"], 2);
}

TEST_F(HttpCompletions, StopStringAcrossTokens) {
  for (const bool stream : {false, true}) {
    server_.service.set_mode(FakeService::Mode::kEndless);
    const ClientResponse response =
        post({{"prompt", "x"}, {"max_tokens", 100}, {"stop", {"xyz", "on a"}}, {"stream", stream}});
    std::string text;
    Json last;
    if (stream) {
      for (const std::string& event : response.events()) {
        if (event == "[DONE]") continue;
        last = Json::parse(event)["choices"][0];
        text += last["text"];
      }
    } else {
      last = response.json()["choices"][0];
      text = last["text"];
    }
    EXPECT_EQ(text, "Once up");
    EXPECT_EQ(last["finish_reason"], "stop");
    EXPECT_TRUE(server_.service.wait_for_cancels(stream ? 2 : 1));
    EXPECT_EQ(server_.service.last_cancel(), FinishReason::kStop);
  }
  const Json kept =
      post({{"prompt", "x"}, {"stop", "up"}, {"include_stop_str_in_output", true}}).json();
  EXPECT_EQ(kept["choices"][0]["text"], "Once up");
}

TEST_F(HttpCompletions, HeldBackTextComesAtTheEnd) {
  server_.service.set_script("a time");
  const Json json = post({{"prompt", "x"}, {"stop", "time!"}}).json();
  EXPECT_EQ(json["choices"][0]["text"], "a time");
}

TEST_F(HttpCompletions, StopTokenIsNotPartOfTheText) {
  const Json json = post({{"prompt", "x"}, {"stop_token_ids", {'c'}}}).json();
  EXPECT_EQ(json["choices"][0]["text"], "On");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json["usage"]["completion_tokens"], 3);
}

TEST_F(HttpCompletions, CharactersAreNeverCut) {
  server_.service.set_script("h\xC3\xA4h");
  const std::vector<std::string> events =
      post({{"prompt", "x"}, {"max_tokens", 4}, {"stream", true}}).events();
  ASSERT_EQ(events.size(), 4U);  // the first byte of the umlaut gives no event
  EXPECT_EQ(Json::parse(events[1])["choices"][0]["text"], "\xC3\xA4");
}

TEST_F(HttpCompletions, Echo) {
  const Json json = post({{"prompt", "Say: "}, {"max_tokens", 2}, {"echo", true}}).json();
  EXPECT_EQ(json["choices"][0]["text"], "Say: On");
  const Json ids = post({{"prompt", {72, 105}}, {"max_tokens", 0}, {"echo", true}}).json();
  EXPECT_EQ(ids["choices"][0]["text"], "Hi");
  EXPECT_EQ(ids["usage"]["completion_tokens"], 0);
}

TEST_F(HttpCompletions, EchoWithLogprobs) {
  const Json json =
      post({{"prompt", {72, 105}}, {"max_tokens", 1}, {"echo", true}, {"logprobs", 0}}).json();
  const Json logprobs = json["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json({"H", "i", "O"}));
  EXPECT_EQ(logprobs["token_logprobs"], Json({nullptr, -0.25, -0.5}));
  EXPECT_EQ(logprobs["text_offset"], Json({0, 1, 2}));
  EXPECT_TRUE(logprobs["top_logprobs"].is_null());
  EXPECT_TRUE(server_.service.requests().at(0).want_prompt_logprobs);
}

TEST_F(HttpCompletions, Logprobs) {
  const Json json = post({{"prompt", "x"}, {"max_tokens", 2}, {"logprobs", 2}}).json();
  EXPECT_EQ(json["choices"][0]["logprobs"]["top_logprobs"],
            Json::parse(R"([{"O":-0.5,"P":-1.5},{"n":-0.5,"o":-1.5}])"));
  EXPECT_EQ(server_.service.requests().at(0).n_logprobs, 2);
}

TEST_F(HttpCompletions, RefusesValuesOutsideTheirLimits) {
  const auto with = [](const char* name, const Json& value) {
    Json body = {{"prompt", "x"}};
    body[name] = value;
    return body;
  };
  for (const Json& value : {Json(1e9), Json(-1), Json("2"), Json(1.5), Json::array({1})}) {
    expect_refused(with("n", value), "n", "between 1 and 128");
    expect_refused(with("max_tokens", value), "max_tokens", "between 0 and 256");
    expect_refused(with("logprobs", value.is_number() && value == 1.5 ? Json(6) : value),
                   "logprobs", "between 0 and 5");
  }
  expect_refused(with("temperature", -0.1), "temperature", "not -0.1");
  expect_refused(with("temperature", "hot"), "temperature", "a number");
  expect_refused(with("top_p", 0), "top_p", "above 0");
  expect_refused(with("top_p", 1.01), "top_p", "between 0");
  expect_refused(with("top_k", -2), "top_k", "-1");
  expect_refused(with("seed", 1e300), "seed", "1e+300");
  expect_refused(with("stop", ""), "stop", "non-empty");
  expect_refused(with("stop", Json(std::vector<std::string>(17, "s"))), "stop", "at most 16");
  expect_refused(with("stop_token_ids", {257}), "stop_token_ids", "between 0 and 256, not 257");
  expect_refused(with("stream", 1), "stream", "true or false");
  expect_refused(with("stream_options", Json::object()), "stream_options", "stream: true");
  expect_refused(with("prompt", {{"a", 1}}), "prompt", "prompt must be");
  expect_refused(with("prompt", Json::array()), "prompt", "prompt must be");
  expect_refused(with("prompt", {"a", 1}), "prompt", "prompt must be");
  expect_refused(with("prompt", {1, "a"}), "prompt", "prompt[1]");
  expect_refused(with("prompt", {1, 1e9}), "prompt", "between 0 and 256");
  expect_refused(with("prompt", ""), "prompt", "at least one token");
  expect_refused({{"max_tokens", 1}}, "prompt", "missing");
  expect_refused({{"prompt", Json(std::vector<std::string>(100, "a"))}, {"n", 2}}, "n", "200");
  EXPECT_TRUE(server_.service.requests().empty());
}

TEST_F(HttpCompletions, RefusesWhatItCannotDo) {
  const Json unsupported = {{"presence_penalty", 0.5},
                            {"frequency_penalty", -1},
                            {"repetition_penalty", 1.1},
                            {"logit_bias", {{"5", 1}}},
                            {"best_of", 2},
                            {"suffix", "end"},
                            {"min_p", 0.1},
                            {"min_tokens", 1},
                            {"prompt_logprobs", 1}};
  for (const auto& [name, value] : unsupported.items()) {
    Json body = {{"prompt", "x"}};
    body[name] = value;
    expect_refused(body, name, "not supported in this version");
  }
  expect_refused({{"prompt", "x"}, {"echo", true}, {"logprobs", 1}}, "logprobs", "not supported");
}

TEST_F(HttpCompletions, OverlongInputIsRefusedWithBothNumbers) {
  expect_refused({{"prompt", std::string(250, 'a')}, {"max_tokens", 10}}, "prompt",
                 "context length is 256 tokens, and the request asks for 260 (250 in prompt, 10");
  expect_refused({{"prompt", std::string(200000, 'a')}}, "prompt", "200000 bytes");
}

TEST_F(HttpCompletions, WrongModel) {
  const ClientResponse response = post({{"model", "gpt-4"}, {"prompt", "x"}});
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(response.json()["error"]["code"], "model_not_found");
  EXPECT_EQ(response.json()["error"]["param"], "model");
}

TEST_F(HttpCompletions, QueueFull) {
  server_.service.set_refusal(Error{"the queue holds 100 requests already", "queue"});
  const ClientResponse busy = post({{"prompt", "x"}});
  EXPECT_EQ(busy.status, 429);
  EXPECT_EQ(busy.headers.at("retry-after"), "1");
  EXPECT_EQ(busy.json()["error"]["type"], "rate_limit_error");
  server_.service.set_refusal(Error{"five crashes in a row", "unavailable"});
  EXPECT_EQ(post({{"prompt", "x"}}).status, 503);
  server_.service.set_refusal(Error{"the queue holds 100 requests already", "queue"});
  ServiceStatus no_group;
  server_.service.set_status(no_group);
  EXPECT_EQ(post({{"prompt", "x"}}).status, 503);
}

TEST_F(HttpCompletions, UnavailableAndDraining) {
  ServiceStatus broken;
  broken.alive = false;
  broken.problem = "five crashes in a row";
  server_.service.set_status(broken);
  const ClientResponse response = post({{"prompt", "x"}});
  EXPECT_EQ(response.status, 503);
  EXPECT_TRUE(response.headers.contains("retry-after"));
  EXPECT_THAT(response.body, testing::HasSubstr("five crashes"));
  ServiceStatus ready;
  ready.ready = true;
  server_.service.set_status(ready);
  EXPECT_EQ(post({{"prompt", "x"}}).status, 200);
  server_.server.begin_drain();
  EXPECT_EQ(post({{"prompt", "x"}}).status, 503);
}

TEST_F(HttpCompletions, FailureOfTheGroup) {
  server_.service.set_mode(FakeService::Mode::kBreak);
  const ClientResponse whole = post({{"prompt", "x"}});
  EXPECT_EQ(whole.status, 500);
  EXPECT_THAT(whole.body, testing::HasSubstr("the group fell over"));
  const std::vector<std::string> events = post({{"prompt", "x"}, {"stream", true}}).events();
  ASSERT_EQ(events.size(), 4U);
  EXPECT_THAT(Json::parse(events[2])["error"]["message"].get<std::string>(),
              testing::HasSubstr("the group fell over"));
  EXPECT_EQ(events[3], "[DONE]");
}

TEST_F(HttpCompletions, TwoClientsAtOnce) {
  server_.service.set_mode(FakeService::Mode::kSilent);
  TestClient other(server_.port());
  const std::string body = R"({"prompt": "x", "stream": true, "max_tokens": 8})";
  client_.send(post_text(kPath, body));
  other.send(post_text(kPath, body));
  ASSERT_TRUE(server_.service.wait_for_requests(2));
  server_.service.release();
  EXPECT_EQ(client_.read_response().events().size(), 9U);
  EXPECT_EQ(other.read_response().events().size(), 9U);
}

TEST_F(HttpCompletions, ClientThatGoesIsCancelled) {
  for (const char* body :
       {R"({"prompt": "x", "n": 2})", R"({"prompt": "x", "n": 2, "stream": true})"}) {
    SCOPED_TRACE(body);
    TestServer server;
    server.service.set_mode(FakeService::Mode::kSilent);
    TestClient client(server.port());
    client.send(post_text(kPath, body));
    ASSERT_TRUE(server.service.wait_for_requests(2));
    client.close();
    EXPECT_TRUE(server.service.wait_for_cancels(2));
  }
}

TEST_F(HttpCompletions, ClientThatGoesDuringAStreamIsCancelled) {
  server_.service.set_mode(FakeService::Mode::kEndless);
  client_.send(post_text(kPath, R"({"prompt": "x", "stream": true})"));
  EXPECT_THAT(client_.read_until("\n\n"), testing::HasSubstr("data: "));
  client_.close();
  EXPECT_TRUE(server_.service.wait_for_cancels(1));
}

}  // namespace
}  // namespace trireme
