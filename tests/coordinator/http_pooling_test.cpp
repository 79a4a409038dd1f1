// The endpoints that answer with numbers, over a service whose embeddings count tokens: "a" is
// {0, 1, 0, 0}, "b" {0, 0, 1, 0}, and so on.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>

#include "model/classifier_head.h"
#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

class HttpPooling : public testing::Test {
 protected:
  explicit HttpPooling(ModelInfo model = fake_model())
      : server_(TestServer::of(std::move(model))) {}

  Json answer(const std::string& path, const Json& body) {
    const ClientResponse response = client_.post(path, body);
    EXPECT_EQ(response.status, 200) << path << body << response.body;
    return response.json();
  }
  Json vectors(const Json& body) {
    Json all = Json::array();
    const Json told = answer("/v1/embeddings", body);
    for (const Json& item : told["data"]) all.push_back(item["embedding"]);
    return all;
  }
  std::string refusal(const std::string& path, const Json& body, const std::string& param,
                      int status = 400) {
    const ClientResponse response = client_.post(path, body);
    EXPECT_EQ(response.status, status) << path << body << response.body;
    const Json error = response.json()["error"];
    EXPECT_EQ(error["param"], param) << response.body;
    return error["message"].get<std::string>();
  }

  TestServer server_;
  TestClient client_{server_.port()};
};

TEST_F(HttpPooling, Embeddings) {
  const Json json =
      answer("/v1/embeddings", {{"model", "fake"}, {"input", {"a", "bbc"}}, {"user", "someone"}});
  EXPECT_TRUE(json["id"].get<std::string>().starts_with("embd-"));
  EXPECT_EQ(json["object"], "list");
  EXPECT_EQ(json["model"], "fake");
  ASSERT_EQ(json["data"].size(), 2U);
  EXPECT_EQ(json["data"][0],
            Json::parse(R"({"index":0,"object":"embedding","embedding":[0,1,0,0]})"));
  EXPECT_EQ(json["data"][1]["index"], 1);
  EXPECT_FLOAT_EQ(json["data"][1]["embedding"][2].get<float>(), 2.0F / std::sqrt(5.0F));
  EXPECT_FLOAT_EQ(json["data"][1]["embedding"][3].get<float>(), 1.0F / std::sqrt(5.0F));
  EXPECT_EQ(json["usage"], Json::parse(R"({"prompt_tokens":4,"total_tokens":4})"));
  for (const GenerateRequest& request : server_.service.requests()) {
    EXPECT_TRUE(request.want_embedding);
    EXPECT_EQ(request.max_new_tokens, 0);
    EXPECT_NE(request.weights, nullptr) << "both of the same weights";
  }
}

TEST_F(HttpPooling, EveryFormOfInput) {
  const Json of_a = {0, 1, 0, 0};
  EXPECT_EQ(vectors({{"input", "a"}}), Json::array({of_a}));
  EXPECT_EQ(vectors({{"input", {"a", "a"}}}), Json::array({of_a, of_a}));
  EXPECT_EQ(vectors({{"input", {97}}}), Json::array({of_a}));
  EXPECT_EQ(vectors({{"input", {{97}, {97, 101}}}}), Json::array({of_a, of_a}));
  EXPECT_THAT(refusal("/v1/embeddings", Json::object(), "input"), HasSubstr("missing"));
  EXPECT_THAT(refusal("/v1/embeddings", {{"input", ""}}, "input"), HasSubstr("one token"));
  EXPECT_THAT(refusal("/v1/embeddings", {{"input", {"a", 5}}}, "input"), HasSubstr("input"));
  EXPECT_THAT(refusal("/v1/embeddings", {{"input", {{kFakeVocab}}}}, "input"), HasSubstr("257"));
  const std::vector<std::string> many(2049, "a");
  EXPECT_THAT(refusal("/v1/embeddings", {{"input", many}}, "input"),
              HasSubstr("at most 2048 prompts, not 2049"));
}

TEST_F(HttpPooling, EncodingAndDimensions) {
  EXPECT_EQ(vectors({{"input", "a"}, {"encoding_format", "base64"}}),
            Json::array({"AAAAAAAAgD8AAAAAAAAAAA=="}));
  EXPECT_EQ(vectors({{"input", "aab"}, {"dimensions", 2}}), Json::parse("[[0,1]]"));
  EXPECT_EQ(vectors({{"input", "aab"}, {"dimensions", 2}, {"normalize", false}}),
            Json::parse("[[0,2]]"));
  EXPECT_EQ(vectors({{"input", "aab"}, {"dimensions", 4}, {"normalize", false}}),
            Json::parse("[[0,2,1,0]]"));
  EXPECT_THAT(refusal("/v1/embeddings", {{"input", "a"}, {"dimensions", 5}}, "dimensions"),
              HasSubstr("between 1 and 4, not 5"));
  refusal("/v1/embeddings", {{"input", "a"}, {"dimensions", 0}}, "dimensions");
  EXPECT_THAT(
      refusal("/v1/embeddings", {{"input", "a"}, {"encoding_format", "int8"}}, "encoding_format"),
      HasSubstr("base64"));
}

TEST_F(HttpPooling, LengthsAndTruncation) {
  const std::string message =
      refusal("/v1/embeddings", {{"input", std::string(257, 'a')}}, "input");
  EXPECT_THAT(message, HasSubstr("256"));
  EXPECT_THAT(message, HasSubstr("257"));
  EXPECT_EQ(vectors({{"input", std::string(256, 'a')}}), Json::parse("[[0,1,0,0]]"));
  const std::string text = std::string(300, 'a') + "bc";
  const auto cut = [&](int n) { return Json{{"input", text}, {"truncate_prompt_tokens", n}}; };
  EXPECT_EQ(vectors(cut(1)), Json::parse("[[0,0,0,1]]"));
  EXPECT_EQ(answer("/v1/embeddings", cut(-1))["usage"]["prompt_tokens"], 256);
  // More tokens than one request may have.
  const std::vector<std::string> many(2048, std::string(256, 'a'));
  EXPECT_EQ(client_.post("/v1/embeddings", Json{{"input", many}}).status, 200);
  ModelInfo long_model = fake_model();
  long_model.context_length = 300;
  TestServer longer = TestServer::of(long_model);
  const std::vector<std::string> too_many(2048, std::string(257, 'a'));
  const auto response = TestClient(longer.port()).post("/v1/embeddings", Json{{"input", too_many}});
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("524288"));
}

TEST_F(HttpPooling, CommonFields) {
  answer("/v1/embeddings", {{"input", "a"}, {"priority", -3}, {"cache_salt", "s"}});
  EXPECT_EQ(server_.service.requests().back().priority, -3);
  EXPECT_EQ(server_.service.requests().back().cache_salt, "\ns");
  EXPECT_THAT(refusal("/v1/embeddings", {{"input", "a"}, {"model", "x"}}, "model", 404),
              HasSubstr("fake"));
  server_.server.begin_drain();
  EXPECT_EQ(client_.post("/v1/embeddings", Json{{"input", "a"}}).status, 503);
}

TEST_F(HttpPooling, Pooling) {
  const Json json = answer("/pooling", {{"input", {"a", "b"}}, {"task", "embed"}});
  EXPECT_TRUE(json["id"].get<std::string>().starts_with("pool-"));
  EXPECT_EQ(json["data"][1], Json::parse(R"({"index":1,"object":"pooling","data":[0,0,1,0]})"));
  EXPECT_EQ(json["usage"]["total_tokens"], 2);
  EXPECT_THAT(refusal("/pooling", {{"input", "a"}, {"task", "token_embed"}}, "task"),
              HasSubstr("embed"));
  EXPECT_EQ(answer("/pooling", {{"input", "a"}, {"encoding_format", "base64"}})["data"][0]["data"],
            "AAAAAAAAgD8AAAAAAAAAAA==");
}

TEST_F(HttpPooling, Score) {
  for (const char* path : {"/score", "/v1/score"}) {
    const Json json = answer(path, {{"text_1", "ab"}, {"text_2", {"a", "ba", "c"}}});
    EXPECT_TRUE(json["id"].get<std::string>().starts_with("score-"));
    EXPECT_EQ(json["object"], "list");
    ASSERT_EQ(json["data"].size(), 3U);
    EXPECT_EQ(json["data"][1]["index"], 1);
    EXPECT_EQ(json["data"][1]["object"], "score");
    EXPECT_DOUBLE_EQ(json["data"][0]["score"].get<double>(), std::sqrt(0.5));
    EXPECT_DOUBLE_EQ(json["data"][1]["score"].get<double>(), 1.0);
    EXPECT_EQ(json["data"][2]["score"], 0.0);
    EXPECT_EQ(json["usage"]["prompt_tokens"], 6) << "text_1 is computed once";
  }
  const Json pairs = answer("/score", {{"text_1", {"a", "b"}}, {"text_2", {"a", "a"}}})["data"];
  ASSERT_EQ(pairs.size(), 2U);
  EXPECT_EQ(pairs[0]["score"], 1.0);
  EXPECT_EQ(pairs[1]["score"], 0.0);
  EXPECT_EQ(answer("/score", {{"text_1", "a"}, {"text_2", "a"}})["data"][0]["score"], 1.0);
  EXPECT_THAT(refusal("/score", {{"text_1", {"a", "b"}}, {"text_2", "a"}}, "text_1"),
              HasSubstr("2 for 1"));
  refusal("/score", {{"text_1", "a"}}, "text_2");
  refusal("/score", {{"text_1", "a"}, {"text_2", Json::array()}}, "text_2");
  refusal("/score", {{"text_2", "a"}}, "text_1");
}

TEST_F(HttpPooling, Rerank) {
  const Json body = {{"query", "ab"}, {"documents", {"c", "a", {{"text", "ab"}}, "b"}}};
  for (const char* path : {"/rerank", "/v1/rerank", "/v2/rerank"}) {
    const Json json = answer(path, body);
    EXPECT_TRUE(json["id"].get<std::string>().starts_with("rerank-"));
    EXPECT_EQ(json["model"], "fake");
    EXPECT_EQ(json["usage"], Json::parse(R"({"prompt_tokens":7,"total_tokens":7})"));
    std::vector<int> order;
    for (const Json& result : json["results"]) order.push_back(result["index"]);
    EXPECT_EQ(order, (std::vector<int>{2, 1, 3, 0})) << "equals in their order";
    EXPECT_EQ(json["results"][0]["document"], Json::parse(R"({"text":"ab"})"));
    EXPECT_DOUBLE_EQ(json["results"][0]["relevance_score"].get<double>(), 1.0);
    EXPECT_EQ(json["results"][3]["relevance_score"], 0.0);
  }
  Json few = body;
  few["top_n"] = 2;
  few["return_documents"] = false;
  const Json json = answer("/rerank", few);
  ASSERT_EQ(json["results"].size(), 2U);
  EXPECT_FALSE(json["results"][0].contains("document"));
  few["top_n"] = 100;
  EXPECT_EQ(answer("/rerank", few)["results"].size(), 4U);
  refusal("/rerank", {{"query", "a"}, {"documents", Json::array()}}, "documents");
  EXPECT_THAT(refusal("/rerank", {{"query", "a"}, {"documents", {"a", 5}}}, "documents"),
              HasSubstr("documents[1]"));
  refusal("/rerank", {{"query", "a"}, {"documents", {{{"image", "a"}}}}}, "documents");
  refusal("/rerank", {{"documents", {"a"}}}, "query");
  refusal("/rerank", {{"query", "a"}, {"documents", {"a"}}, {"top_n", -1}}, "top_n");
}

TEST_F(HttpPooling, ClassifyNeedsAHead) {
  const std::string message = refusal("/classify", {{"input", "a"}}, "model");
  EXPECT_THAT(message, HasSubstr("LlamaForSequenceClassification"));
  EXPECT_THAT(message, HasSubstr("Qwen3ForSequenceClassification"));
}

TEST_F(HttpPooling, InputsGoThroughAWindowAndComeInOrder) {
  server_.service.set_mode(FakeService::Mode::kSilent);
  std::vector<std::string> inputs;
  for (int i = 0; i < 100; ++i) inputs.push_back(i % 3 == 0 ? "a" : i % 3 == 1 ? "b" : "c");
  ASSERT_TRUE(client_.send(post_text("/v1/embeddings", Json{{"input", inputs}}.dump())));
  ASSERT_TRUE(server_.service.wait_for_requests(32));
  server_.service.release();
  const Json data = client_.read_response().json()["data"];
  ASSERT_EQ(data.size(), 100U);
  for (size_t i = 0; i < data.size(); ++i) {
    EXPECT_EQ(data[i]["index"], i);
    EXPECT_EQ(data[i]["embedding"][1 + i % 3], 1) << i;
  }
  EXPECT_EQ(server_.service.most_at_once(), 32U);
}

TEST_F(HttpPooling, AFullQueueIsWaitedForBehindOwnInputsOnly) {
  server_.service.set_capacity(3);
  EXPECT_EQ(vectors({{"input", std::vector<std::string>(20, "a")}}).size(), 20U);
  EXPECT_LE(server_.service.most_at_once(), 3U);
  server_.service.set_capacity(0);
  EXPECT_EQ(client_.post("/v1/embeddings", Json{{"input", "a"}}).status, 429);
}

TEST_F(HttpPooling, AClientThatGoesFreesAllItsInputs) {
  server_.service.set_mode(FakeService::Mode::kSilent);
  ASSERT_TRUE(client_.send(
      post_text("/rerank", Json{{"query", "a"}, {"documents", {"a", "b", "c"}}}.dump())));
  ASSERT_TRUE(server_.service.wait_for_requests(4));
  client_.close();
  EXPECT_TRUE(server_.service.wait_for_cancels(4));
}

TEST_F(HttpPooling, OneFailureFailsTheRequestAndFreesTheRest) {
  server_.service.set_mode(FakeService::Mode::kBreak);
  const ClientResponse response =
      client_.post("/v1/embeddings", Json{{"input", std::vector<std::string>(50, "a")}});
  EXPECT_EQ(response.status, 500);
  EXPECT_THAT(response.body, HasSubstr("the group fell over"));
  server_.service.release();
  EXPECT_EQ(vectors({{"input", "a"}}).size(), 1U);
  EXPECT_EQ(server_.service.status().n_running, 0);
}

TEST_F(HttpPooling, CountsByPath) {
  answer("/v1/embeddings", {{"input", "a"}});
  client_.post("/rerank", Json::object());
  const std::string metrics = client_.get("/metrics").body;
  EXPECT_THAT(metrics,
              HasSubstr("trireme_http_requests_total{code=\"200\",path=\"/v1/embeddings\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("trireme_http_requests_total{code=\"400\",path=\"/rerank\"} 1"));
}

ModelInfo wide_model(int32_t hidden_size) {
  ModelInfo model = fake_model();
  model.hidden_size = hidden_size;
  return model;
}

// Such answers do not fit the bound for bytes that wait for a client: they go out as they are read.
TEST(HttpPoolingLarge, LongAnswersComeWhole) {
  constexpr int32_t kHidden = 1024;
  TestServer server = TestServer::of(wide_model(kHidden));
  server.service.set_hidden_size(kHidden);
  TestClient client(server.port());
  const std::vector<std::string> inputs(1024, "a");
  const ClientResponse response =
      client.post("/v1/embeddings", Json{{"input", inputs}, {"encoding_format", "base64"}});
  ASSERT_EQ(response.status, 200);
  EXPECT_GT(response.body.size(), 5U << 20);
  const Json data = response.json()["data"];
  ASSERT_EQ(data.size(), 1024U);
  EXPECT_EQ(data[0]["embedding"], data[1023]["embedding"]);
  EXPECT_EQ(client.post("/v1/embeddings", Json{{"input", "a"}}).status, 200) << "the next one";
}

TEST(HttpPoolingLarge, NumbersHaveABoundForOneRequestAndForAll) {
  TestServer server = TestServer::of(wide_model(4096));
  const Json too_many = {{"input", std::vector<std::string>(1025, "a")}};
  const ClientResponse refused = TestClient(server.port()).post("/v1/embeddings", too_many);
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("4194304"));
  server.service.set_mode(FakeService::Mode::kSilent);
  const std::string most = Json{{"input", std::vector<std::string>(1024, "a")}}.dump();
  std::deque<TestClient> clients;
  for (size_t i = 0; i < 8; ++i) {
    clients.emplace_back(server.port()).send(post_text("/v1/embeddings", most));
    ASSERT_TRUE(server.service.wait_for_requests(32 * (i + 1)));
  }
  const auto one_more = [&] {
    return TestClient(server.port()).post("/v1/embeddings", Json{{"input", "a"}});
  };
  const ClientResponse full = one_more();
  EXPECT_EQ(full.status, 503);
  EXPECT_EQ(full.headers.at("retry-after"), "1");
  clients.clear();
  ASSERT_TRUE(server.service.wait_for_cancels(8 * 32));
  server.service.set_hidden_size(4096);
  server.service.release();
  // The last job ends on a handler thread, after its inputs were cancelled.
  for (int i = 0; i < 1000 && one_more().status != 200; ++i) {
  }
  EXPECT_EQ(one_more().status, 200);
}

ModelInfo mean_pooled_model() {
  ModelInfo model = fake_model();
  model.other_pooling = "pooling_mode_mean_tokens";
  return model;
}

TEST(HttpPoolingModels, OtherPoolingIsRefusedByName) {
  TestServer server = TestServer::of(mean_pooled_model());
  for (const auto& [path, body] :
       std::map<std::string, Json>{{"/v1/embeddings", {{"input", "a"}}},
                                   {"/pooling", {{"input", "a"}}},
                                   {"/score", {{"text_1", "a"}, {"text_2", "a"}}},
                                   {"/rerank", {{"query", "a"}, {"documents", {"a"}}}}}) {
    const ClientResponse response = TestClient(server.port()).post(path, body);
    EXPECT_EQ(response.status, 400) << path;
    EXPECT_THAT(response.body, HasSubstr("pooling_mode_mean_tokens"));
  }
  EXPECT_EQ(TestClient(server.port()).post("/v1/completions", Json{{"prompt", "a"}}).status, 200);
}

ModelInfo classifier_model() {
  ModelInfo model = fake_model();
  model.classifier = std::make_shared<ClassifierHead>(
      ClassifierHead{.labels = {"good", "b\"ad"}, .weight = {0, 5, 0, 0, 0, 0, 5, 0}});
  model.has_lm_head = false;
  return model;
}

class HttpClassify : public HttpPooling {
 protected:
  HttpClassify() : HttpPooling(classifier_model()) {}
};

TEST_F(HttpClassify, TellsLabelsAndProbabilities) {
  const Json json = answer("/classify", {{"input", {"a", "b", "d"}}});
  EXPECT_TRUE(json["id"].get<std::string>().starts_with("classify-"));
  ASSERT_EQ(json["data"].size(), 3U);
  EXPECT_EQ(json["data"][0]["label"], "good");
  EXPECT_EQ(json["data"][1]["label"], "b\"ad");
  EXPECT_EQ(json["data"][0]["num_classes"], 2);
  const float likely = 1.0F / (1.0F + std::exp(-5.0F));
  EXPECT_FLOAT_EQ(json["data"][0]["probs"][0].get<float>(), likely);
  EXPECT_FLOAT_EQ(json["data"][1]["probs"][1].get<float>(), likely);
  EXPECT_EQ(json["data"][2]["probs"], Json::parse("[0.5,0.5]"));
  EXPECT_EQ(json["usage"]["prompt_tokens"], 3);
}

TEST_F(HttpClassify, SuchAModelGeneratesNoText) {
  EXPECT_THAT(refusal("/v1/completions", {{"prompt", "a"}}, "model"), HasSubstr("/classify"));
  refusal("/v1/chat/completions",
          {{"messages", {{{"role", "user"}, {"content", "a"}}}}, {"max_tokens", 1}}, "model");
  EXPECT_EQ(vectors({{"input", "a"}}), Json::parse("[[0,1,0,0]]"));
}

}  // namespace
}  // namespace trireme
