// Request fields that change what is drawn, what is told of it, and who is served first.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "coordinator/http/request_parsers.h"
#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using testing::ElementsAre;

class HttpSamplingFields : public testing::Test {
 protected:
  ClientResponse post(const Json& body) { return client_.post("/v1/completions", body); }
  Json choice_of(const Json& body) {
    const ClientResponse response = post(body);
    EXPECT_EQ(response.status, 200) << response.body;
    return response.json()["choices"][0];
  }
  GenerateRequest last_request() { return server_.service.requests().back(); }
  void expect_refused(const char* name, const Json& value, const std::string& in_message,
                      Json body = {{"prompt", "x"}}) {
    body[name] = value;
    const ClientResponse response = post(body);
    ASSERT_EQ(response.status, 400) << body << response.body;
    const Json error = response.json()["error"];
    EXPECT_EQ(error["param"], name) << response.body;
    EXPECT_THAT(error["message"].get<std::string>(), testing::HasSubstr(in_message)) << body;
    EXPECT_THAT(error["message"].get<std::string>(), testing::HasSubstr(name)) << body;
  }

  TestServer server_;
  TestClient client_{server_.port()};
};

TEST_F(HttpSamplingFields, RulesAreMadeOnceForAllChoices) {
  const ClientResponse response = post({{"prompt", "x"},
                                        {"n", 2},
                                        {"min_p", 0.25},
                                        {"presence_penalty", 0.5},
                                        {"frequency_penalty", -1},
                                        {"repetition_penalty", 1.5},
                                        {"logit_bias", {{"65", 2.5}, {"7", -100}}},
                                        {"allowed_token_ids", {66, 65, 66}},
                                        {"bad_words", {"no", " way"}},
                                        {"stop_token_ids", {9}},
                                        {"min_tokens", 3}});
  ASSERT_EQ(response.status, 200) << response.body;
  const std::vector<GenerateRequest> requests = server_.service.requests();
  EXPECT_EQ(requests.at(0).sampling.min_p, 0.25F);
  EXPECT_EQ(requests.at(0).rules, requests.at(1).rules);
  ASSERT_NE(requests.at(0).rules, nullptr);
  const LogitRules& rules = *requests.at(0).rules;
  EXPECT_EQ(rules.presence_penalty, 0.5F);
  EXPECT_EQ(rules.frequency_penalty, -1.0F);
  EXPECT_EQ(rules.repetition_penalty, 1.5F);
  ASSERT_EQ(rules.biases.size(), 2U);
  EXPECT_EQ(rules.biases[0].token_id, 7);
  EXPECT_EQ(rules.biases[0].bias, -100.0F);
  EXPECT_EQ(rules.biases[1].bias, 2.5F);
  EXPECT_THAT(rules.allowed_token_ids, ElementsAre(65, 66));
  EXPECT_EQ(rules.min_tokens, 3);
  EXPECT_THAT(rules.end_token_ids, ElementsAre(9));
  // Bytes: after a space a word has one token more, so it is banned as it stands alone.
  EXPECT_EQ(rules.bad_words, (std::vector<std::vector<int32_t>>{{'n', 'o'}, {'w', 'a', 'y'}}));
}

TEST_F(HttpSamplingFields, NeutralValuesMakeNoRules) {
  ASSERT_EQ(post({{"prompt", "x"},
                  {"min_p", 0},
                  {"presence_penalty", 0},
                  {"frequency_penalty", 0.0},
                  {"repetition_penalty", 1},
                  {"logit_bias", Json::object()},
                  {"allowed_token_ids", nullptr},
                  {"bad_words", Json::array()},
                  {"min_tokens", 0},
                  {"best_of", 1},
                  {"suffix", ""},
                  {"use_beam_search", false},
                  {"priority", 0}})
                .status,
            200);
  EXPECT_EQ(last_request().rules, nullptr);
  EXPECT_EQ(last_request().sampling.min_p, 0.0F);
  EXPECT_EQ(last_request().priority, 0);
}

TEST_F(HttpSamplingFields, RefusesValuesOutsideTheirLimits) {
  for (const Json& value : {Json(1e9), Json("1"), Json(true), Json::array({1}), Json(-1e9)}) {
    expect_refused("min_p", value, "between 0 and 1");
    expect_refused("presence_penalty", value, "between -2 and 2");
    expect_refused("frequency_penalty", value, "between -2 and 2");
    expect_refused("repetition_penalty", value, "between 0.01 and 100");
    expect_refused("min_tokens", value, "between 0 and 256");
    expect_refused("logit_bias", value, "an object");
    expect_refused("allowed_token_ids", value.is_array() ? Json({257}) : value, "token id");
    expect_refused("prompt_logprobs", value, "between 0 and 20");
    expect_refused("priority", value, "between -1000 and 1000");
    expect_refused("truncate_prompt_tokens", value, "between -1 and 256");
    expect_refused("best_of", value, "between 1 and 128");
    expect_refused("length_penalty", value, "between -10 and 10");
    if (value != true) {
      expect_refused("return_token_ids", value, "true or false");
      expect_refused("return_tokens_as_token_ids", value, "true or false");
      expect_refused("use_beam_search", value, "true or false");
      expect_refused("spaces_between_special_tokens", value, "true or false");
    }
    if (!value.is_string()) expect_refused("request_id", value, "a string");
  }
  expect_refused("repetition_penalty", 0, "not 0");
  expect_refused("min_tokens", 20, "at most 16 tokens");
  expect_refused("logit_bias", {{"257", 1}}, "between 0 and 256");
  expect_refused("logit_bias", {{"x", 1}}, "the key \"x\"");
  expect_refused("logit_bias", {{"7", 1}, {"07", 2}}, "the key \"07\"");
  expect_refused("logit_bias", {{"5", 101}}, "between -100 and 100, not 101");
  expect_refused("logit_bias", {{"5", "a"}}, "logit_bias.5");
  expect_refused("allowed_token_ids", Json::array(), "at least one");
  expect_refused("allowed_token_ids", std::vector<int>(65537, 1), "at most 65536");
  expect_refused("bad_words", std::vector<std::string>(129, "a"), "at most 128");
  expect_refused("bad_words", {std::string(257, 'a')}, "at most 256 bytes, not 257");
  expect_refused("bad_words", {"  "}, "has no tokens");
  expect_refused("bad_words", 7, "a non-empty string");
  expect_refused("truncate_prompt_tokens", 0, "not 0");
  expect_refused("request_id", "a/b", "letters");
  expect_refused("request_id", std::string(129, 'a'), "at most 128");
  expect_refused("suffix", 5, "a string");
  EXPECT_TRUE(server_.service.requests().empty());
}

TEST_F(HttpSamplingFields, RefusesWhatDoesNotGoTogether) {
  const Json stream = {{"prompt", "x"}, {"stream", true}};
  expect_refused("prompt_logprobs", 1, "stream: true", stream);
  expect_refused("best_of", 2, "stream: true", stream);
  const Json search = {{"prompt", "x"}, {"use_beam_search", true}};
  expect_refused("stream", true, "use_beam_search", search);
  expect_refused("stop", "a", "use_beam_search", search);
  expect_refused("best_of", 2, "use_beam_search", search);
  expect_refused("n", 17, "at most 16", search);
  expect_refused("use_beam_search", true, "penalties", {{"prompt", "x"}, {"min_tokens", 1}});
}

TEST_F(HttpSamplingFields, BoundsWhatIsToldOfPrompts) {
  const std::vector<int> prompt(200, 65);
  const Json most = {{"prompt", prompt}, {"max_tokens", 0}, {"n", 62}, {"prompt_logprobs", 20}};
  EXPECT_EQ(post(most).status, 200);  // 200 * 62 * 21 = 260400
  Json more = most;
  more["n"] = 63;
  more.erase("prompt_logprobs");
  expect_refused("prompt_logprobs", 20, "264600 entries; the limit is 262144", more);
}

TEST_F(HttpSamplingFields, BoundsWhatIsToldOfAnswers) {
  const Json chat = {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}, {"logprobs", true}};
  const auto refusal = [&](int context_length, const Json& more) -> std::string {
    Json body = chat;
    body.update(more);
    const ModelInfo model{.id = "m", .context_length = context_length, .vocab_size = kFakeVocab};
    const ParsedCall parsed = parse_chat_request(body, model, server_.codec);
    const auto* error = std::get_if<ApiError>(&parsed);
    return error == nullptr ? "" : error->param + ": " + error->message;
  };
  EXPECT_EQ(refusal(256, {{"n", 62}, {"max_tokens", 200}, {"top_logprobs", 20}}), "");
  EXPECT_THAT(refusal(256, {{"n", 63}, {"max_tokens", 200}, {"top_logprobs", 20}}),
              testing::MatchesRegex("top_logprobs: .*264600 entries; the limit is 262144"));
  EXPECT_EQ(refusal(8192, {{"n", 128}, {"max_tokens", 2048}}), "");
  EXPECT_THAT(refusal(8192, {{"n", 128}, {"max_tokens", 2049}}),
              testing::MatchesRegex("logprobs: .*262272 entries; the limit is 262144"));
  // One choice may be as long as the context.
  EXPECT_EQ(refusal(131072, {{"top_logprobs", 20}}), "");
  EXPECT_THAT(refusal(131072, {{"n", 2}, {"top_logprobs", 20}}),
              testing::EndsWith("the limit is 2752512"));
}

TEST_F(HttpSamplingFields, PriorityIsPassedOn) {
  ASSERT_EQ(post({{"prompt", "x"}, {"priority", -5}}).status, 200);
  EXPECT_EQ(last_request().priority, -5);
}

TEST_F(HttpSamplingFields, RequestIdIsTheAnswersId) {
  const Json json = post({{"prompt", "x"}, {"request_id", "run-7:a.b_c"}}).json();
  EXPECT_EQ(json["id"], "cmpl-run-7:a.b_c");
}

TEST_F(HttpSamplingFields, EchoWithAlternatives) {
  const Json logprobs = choice_of(
      {{"prompt", {72, 105, 33}}, {"max_tokens", 1}, {"echo", true}, {"logprobs", 2}})["logprobs"];
  EXPECT_EQ(logprobs["token_logprobs"], Json({nullptr, -0.25, -0.25, -0.5}));
  EXPECT_EQ(logprobs["top_logprobs"],
            Json::parse(R"([null,{"a":-0.125,"b":-0.25,"i":-0.25},{"a":-0.125,"b":-0.25,"!":-0.25},
                            {"O":-0.5,"P":-1.5}])"));
  // The prompt alone, as evaluations ask for it.
  const Json alone = choice_of(
      {{"prompt", {72, 105, 33}}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 1}})["logprobs"];
  EXPECT_EQ(alone["token_logprobs"], Json({nullptr, -0.25, -0.25}));
  EXPECT_EQ(alone["top_logprobs"][0], nullptr);
  EXPECT_EQ(alone["top_logprobs"][1], Json::parse(R"({"a":-0.125,"i":-0.25})"));
}

TEST_F(HttpSamplingFields, PromptLogprobs) {
  const Json rows = choice_of(
      {{"prompt", {72, 97}}, {"max_tokens", 1}, {"prompt_logprobs", 2}})["prompt_logprobs"];
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0], nullptr);
  EXPECT_EQ(rows[1], Json::parse(R"({"97":{"logprob":-0.125,"rank":1,"decoded_token":"a"},
                                     "98":{"logprob":-0.25,"rank":2,"decoded_token":"b"}})"));
  const Json own = choice_of(
      {{"prompt", {72, 97}}, {"max_tokens", 1}, {"prompt_logprobs", 0}})["prompt_logprobs"];
  EXPECT_EQ(own[1], Json::parse(R"({"97":{"logprob":-0.25,"rank":null,"decoded_token":"a"}})"));
}

TEST_F(HttpSamplingFields, TokenIds) {
  const Json choice =
      choice_of({{"prompt", {72, 105}}, {"max_tokens", 2}, {"return_token_ids", true}});
  EXPECT_EQ(choice["prompt_token_ids"], Json({72, 105}));
  EXPECT_EQ(choice["token_ids"], Json({'O', 'n'}));
  const std::vector<std::string> events =
      post({{"prompt", {72, 105}}, {"max_tokens", 2}, {"stream", true}, {"return_token_ids", true}})
          .events();
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(Json::parse(events[0])["choices"][0]["prompt_token_ids"], Json({72, 105}));
  EXPECT_EQ(Json::parse(events[0])["choices"][0]["token_ids"], Json({'O'}));
  EXPECT_EQ(Json::parse(events[1])["choices"][0]["prompt_token_ids"], nullptr);
  EXPECT_EQ(Json::parse(events[1])["choices"][0]["token_ids"], Json({'n'}));

  const Json chat =
      client_
          .post("/v1/chat/completions", {{"messages", {{{"role", "user"}, {"content", "a"}}}},
                                         {"max_tokens", 1},
                                         {"return_token_ids", true},
                                         {"prompt_logprobs", 1}})
          .json();
  EXPECT_EQ(chat["prompt_token_ids"].size(), chat["usage"]["prompt_tokens"]);
  EXPECT_EQ(chat["prompt_logprobs"].size(), chat["prompt_token_ids"].size());
  EXPECT_EQ(chat["choices"][0]["token_ids"], Json({'O'}));
}

TEST_F(HttpSamplingFields, TokensAsIds) {
  const Json logprobs = choice_of({{"prompt", "x"},
                                   {"max_tokens", 1},
                                   {"logprobs", 2},
                                   {"return_tokens_as_token_ids", true}})["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json({"token_id:79"}));
  EXPECT_EQ(logprobs["top_logprobs"], Json::parse(R"([{"token_id:79":-0.5,"token_id:80":-1.5}])"));
}

TEST_F(HttpSamplingFields, TruncatesToTheLastTokens) {
  Json choice = choice_of(
      {{"prompt", "abcdef"}, {"max_tokens", 1}, {"echo", true}, {"truncate_prompt_tokens", 2}});
  EXPECT_EQ(choice["text"], "efO");
  EXPECT_THAT(last_request().prompt_ids, ElementsAre('e', 'f'));
  choice_of({{"prompt", "ab"}, {"max_tokens", 1}, {"truncate_prompt_tokens", 5}});
  EXPECT_THAT(last_request().prompt_ids, ElementsAre('a', 'b'));
  // As many as there is room for: a context of 256.
  choice_of(
      {{"prompt", std::vector<int>(300, 65)}, {"max_tokens", 6}, {"truncate_prompt_tokens", -1}});
  EXPECT_EQ(last_request().prompt_ids.size(), 250U);
}

TEST_F(HttpSamplingFields, BestOfTellsTheLikeliest) {
  const Json json = post({{"prompt", "x"}, {"max_tokens", 3}, {"n", 2}, {"best_of", 4}}).json();
  ASSERT_EQ(json["choices"].size(), 2U);
  EXPECT_EQ(json["choices"][1]["index"], 1);
  EXPECT_EQ(json["choices"][0]["logprobs"], nullptr);
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);
  EXPECT_EQ(server_.service.requests().size(), 4U);
}

// The fake service says "the next letter" whatever came before; n_logprobs alternatives of it.
TEST_F(HttpSamplingFields, BeamSearchAsksForOneTokenAtATime) {
  const ClientResponse response = post(
      {{"prompt", "xyz"}, {"max_tokens", 3}, {"n", 2}, {"use_beam_search", true}, {"logprobs", 1}});
  ASSERT_EQ(response.status, 200) << response.body;
  const Json json = response.json();
  ASSERT_EQ(json["choices"].size(), 2U);
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["choices"][0]["logprobs"]["token_logprobs"].size(), 3U);
  EXPECT_EQ(json["usage"]["completion_tokens"], 6);
  EXPECT_EQ(json["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
  EXPECT_EQ(json["choices"][0]["text"], "Onc");
  const std::vector<GenerateRequest> requests = server_.service.requests();
  ASSERT_EQ(requests.size(), 5U);  // 1 + 2 + 2
  for (const GenerateRequest& request : requests) {
    EXPECT_EQ(request.max_new_tokens, static_cast<int32_t>(request.output_ids.size()) + 1);
    EXPECT_EQ(request.n_logprobs, 4);
  }
}

TEST_F(HttpSamplingFields, BeamSearchOfAClientThatGoesIsCancelled) {
  server_.service.set_mode(FakeService::Mode::kSilent);
  client_.send(
      post_text("/v1/completions", R"({"prompt": ["x", "y"], "n": 2, "use_beam_search": true})"));
  ASSERT_TRUE(server_.service.wait_for_requests(2));
  client_.close();
  EXPECT_TRUE(server_.service.wait_for_cancels(2));
}

TEST_F(HttpSamplingFields, BeamSearchThatFailsIsAnError) {
  server_.service.set_refusal(Error{"the queue holds 100 requests already", "queue"});
  EXPECT_EQ(post({{"prompt", "x"}, {"use_beam_search", true}, {"n", 2}}).status, 429);
}

}  // namespace
}  // namespace trireme
