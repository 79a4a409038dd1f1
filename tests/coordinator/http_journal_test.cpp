#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "coordinator/http/kept_answer.h"
#include "coordinator/http/stream_position.h"
#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

constexpr const char* kPath = "/v1/completions";

TEST(StreamPosition, IsReadAsItIsWritten) {
  for (const char* text : {"-", "0", "12", "12e", "-.3.40e", "5e.6e.u"}) {
    const int n_choices = text[0] == '5' ? 2 : text[1] == '.' ? 3 : 1;
    const Result<StreamPosition> position = StreamPosition::parse(text, n_choices, 40);
    ASSERT_TRUE(position) << text;
    EXPECT_EQ(position->text(), text);
  }
  EXPECT_EQ(StreamPosition::parse("", 2, 40)->text(), "-.-");
}

TEST(StreamPosition, RefusesWhatIsNone) {
  for (const char* text : {"41", "-1", "e", "1.2.3", "1", "1.", ".1", "1.x", "1.2.v", "1 .2", "u",
                           "99999999999.1", "1.2e3"}) {
    EXPECT_FALSE(StreamPosition::parse(text, 2, 40)) << text;
  }
}

TEST(FirstEvents, AreWholeOnes) {
  EXPECT_EQ(first_events("a\n\nbb\n\n", 8), "a\n\nbb\n\n");
  EXPECT_EQ(first_events("a\n\nbb\n\n", 6), "a\n\n");
  EXPECT_EQ(first_events("a\n\nbb\n\n", 1), "a\n\n");
}

class HttpJournal : public testing::Test {
 protected:
  HttpJournal() { start(); }
  ~HttpJournal() override { stop(); }

  void start(const HttpLimits& limits = {}, int32_t grace_s = 30) {
    stop();
    journal_ = std::make_unique<Journal>(JournalOptions{.path = folder_ / "journal"});
    server_ = std::make_unique<TestServer>(limits, journal_.get(), grace_s);
  }
  void stop() {
    server_.reset();
    journal_.reset();
  }

  std::string stream(const Json& body) const {
    Json streamed = body;
    streamed["stream"] = true;
    const ClientResponse response = TestClient(server_->port()).post(kPath, streamed);
    EXPECT_EQ(response.status, 200) << response.body;
    return response.body;
  }
  ClientResponse get(const std::string& id, const std::string& fields) const {
    TestClient client(server_->port());
    client.send("GET " + std::string(kPath) + "/" + id + " HTTP/1.1\r\nHost: h\r\n" + fields +
                "\r\n");
    return client.read_response();
  }
  std::string rest(const std::string& id, const std::string& last_event_id) const {
    const ClientResponse response = get(id, "Last-Event-ID: " + last_event_id + "\r\n");
    EXPECT_EQ(response.status, 200) << response.body;
    return response.body;
  }
  static std::string id_in(const std::string& body) {
    const size_t begin = body.find("cmpl-");
    return body.substr(begin, body.find('"', begin) - begin);
  }

  const TempFolder folder_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<TestServer> server_;
};

// Cuts inside characters, held-back stop strings, before the usage.
TEST_F(HttpJournal, EveryEventIsAPlaceToGoOnFrom) {
  server_->service.set_script("Es war ein Kö–nig, der naïve, ein König, der alte");
  const std::string all = stream({{"prompt", "x"},
                                  {"max_tokens", 100},
                                  {"logprobs", 1},
                                  {"stop", Json::array({"König, der junge", "der alte"})},
                                  {"stream_options", {{"include_usage", true}}}});
  const std::string id = id_in(all);
  int n_events = 0;
  for (size_t begin = 0; all.compare(begin, 4, "id: ") == 0;) {
    const size_t line = all.find('\n', begin);
    const std::string event_id = all.substr(begin + 4, line - begin - 4);
    begin = all.find("\n\n", begin) + 2;
    EXPECT_EQ(rest(id, event_id), all.substr(begin)) << event_id;
    ++n_events;
  }
  EXPECT_GT(n_events, 30);
  EXPECT_EQ(get(id, "Accept: text/event-stream\r\n").body, all);
  const Json whole = get(id, "").json();
  EXPECT_EQ(whole["choices"][0]["text"], "Es war ein Kö–nig, der naïve, ein König, ");
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(get(id, "Last-Event-ID: 1.2\r\n").status, 400);
  EXPECT_EQ(get("cmpl-0", "").status, 404);
  EXPECT_EQ(TestClient(server_->port()).get("/v1/chat/completions/" + id).status, 404);
}

TEST_F(HttpJournal, AnswersOutliveTheServer) {
  const std::string all = stream({{"prompt", "x"}, {"max_tokens", 5}});
  start();
  EXPECT_EQ(get(id_in(all), "Accept: text/event-stream\r\n").body, all);
  EXPECT_TRUE(server_->service.requests().empty());
}

// As a coordinator leaves it that was killed after three tokens.
TEST_F(HttpJournal, GoesOnWithWhatWasBegun) {
  stop();
  const auto begun = [&](const std::string& id, const std::string& weights) {
    Journal journal({.path = folder_ / "journal"});
    const Journal::EntryPtr entry = *journal.create({.id = id,
                                                     .endpoint = kPath,
                                                     .weights = weights,
                                                     .body = R"({"prompt":"x","stream":true})",
                                                     .prompts = {{'o', 'l', 'd'}},
                                                     .created = 7,
                                                     .seed = 5,
                                                     .max_new_tokens = 6,
                                                     .n_choices = 1});
    for (const char c : {'O', 'n', 'c'}) {
      GenerateEvent event;
      event.token_ids = {c};
      event.numerics_id = "fake";
      journal.append(entry, 0, event);
    }
  };
  begun("cmpl-1", "");
  begun("cmpl-2", "other");
  start();
  ASSERT_TRUE(server_->service.wait_for_requests(1));
  const GenerateRequest request = server_->service.requests().at(0);
  EXPECT_EQ(request.prompt_ids, (std::vector<int32_t>{'o', 'l', 'd'})) << "not read again";
  EXPECT_EQ(request.output_ids, (std::vector<int32_t>{'O', 'n', 'c'}));
  EXPECT_EQ(request.numerics_id, "fake");
  EXPECT_EQ(request.sampling.seed, 5U);
  EXPECT_EQ(request.max_new_tokens, 6);
  const std::string body = rest("cmpl-1", "2");
  std::string text;
  for (size_t at = body.find("data: {"); at != std::string::npos;
       at = body.find("data: {", at + 1)) {
    const Json event = Json::parse(body.substr(at + 6, body.find('\n', at) - at - 6));
    EXPECT_EQ(event["created"], 7);
    text += event["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(text, "ce u");
  ClientResponse other = get("cmpl-2", "");
  while (other.status == 503) other = get("cmpl-2", "");  // its end is being written
  EXPECT_EQ(other.status, 500);
  EXPECT_THAT(other.body, HasSubstr("begun with other weights"));
}

TEST_F(HttpJournal, AnAnswerKeepsTheWeightsItBeganWith) {
  server_->service.set_weights({.generation = 1, .id = "one", .before = {}});
  const std::string first = stream({{"prompt", "x"}, {"max_tokens", 5}});
  server_->service.set_weights({.generation = 2, .id = "two", .before = {"one"}});
  const std::string second = stream({{"prompt", "x"}, {"max_tokens", 5}});
  const std::vector<GenerateRequest> requests = server_->service.requests();
  EXPECT_EQ(requests.at(0).weights->id, "one");
  EXPECT_EQ(requests.at(1).weights->id, "two");
  EXPECT_EQ(get(id_in(first), "Accept: text/event-stream\r\n").body, first);
  EXPECT_EQ(get(id_in(second), "Accept: text/event-stream\r\n").body, second);
  // A server that was started with others may have another text layer.
  start();
  server_->service.set_weights({.generation = 1, .id = "one", .before = {}});
  EXPECT_EQ(get(id_in(first), "Accept: text/event-stream\r\n").body, first);
  EXPECT_THAT(get(id_in(second), "Accept: text/event-stream\r\n").body,
              HasSubstr("begun with other weights"));
}

TEST_F(HttpJournal, AClientThatGoesHasTimeToComeBack) {
  server_->service.set_mode(FakeService::Mode::kEndless);
  TestClient client(server_->port());
  client.send(post_text(kPath, R"({"prompt":"x","stream":true,"max_tokens":200})"));
  const std::string id = id_in(client.read_until("\n\n"));
  EXPECT_EQ(get(id, "").status, 202);
  client.close();
  TestClient again(server_->port());
  again.send("GET " + std::string(kPath) + "/" + id +
             " HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n");
  EXPECT_THAT(again.read_until("\n\n"), HasSubstr("200 OK"));
  // The one that comes last has the stream.
  TestClient third(server_->port());
  third.send("GET " + std::string(kPath) + "/" + id +
             " HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n");
  EXPECT_THAT(third.read_until("\n\n"), HasSubstr("200 OK"));
  EXPECT_THAT(again.read_until("0\r\n\r\n"), testing::EndsWith("0\r\n\r\n"));
  EXPECT_EQ(server_->service.status().n_running, 1);
}

TEST_F(HttpJournal, AClientThatStaysAwayIsGivenUp) {
  start({}, 0);
  server_->service.set_mode(FakeService::Mode::kEndless);
  TestClient client(server_->port());
  client.send(post_text(kPath, R"({"prompt":"x","stream":true,"max_tokens":200})"));
  client.read_until("\n\n");
  client.read_until("\n\n");
  client.close();
  EXPECT_TRUE(server_->service.wait_for_cancels(1));
}

TEST_F(HttpJournal, AClientThatKnowsNoIdIsGivenUpAtOnce) {
  server_->service.set_mode(FakeService::Mode::kSilent);
  TestClient client(server_->port());
  client.send(post_text(kPath, R"({"prompt":"x","stream":true,"max_tokens":200})"));
  ASSERT_TRUE(server_->service.wait_for_requests(1));
  client.close();
  EXPECT_TRUE(server_->service.wait_for_cancels(1));
}

TEST_F(HttpJournal, ALongRestComesInParts) {
  HttpLimits limits;
  limits.max_outgoing_bytes = 4000;
  start();
  const std::string all = stream({{"prompt", "x"}, {"max_tokens", 60}});
  start(limits);
  const std::string id = id_in(all);
  std::string got = get(id, "Accept: text/event-stream\r\n").body;
  int n_connections = 1;
  while (!got.ends_with("data: [DONE]\n\n")) {
    const size_t last = got.rfind("id: ");
    ASSERT_NE(last, std::string::npos);
    const std::string more = rest(id, got.substr(last + 4, got.find('\n', last) - last - 4));
    ASSERT_FALSE(more.empty());
    got += more;
    ++n_connections;
  }
  EXPECT_EQ(got, all);
  EXPECT_GT(n_connections, 1);
}

TEST_F(HttpJournal, WhatHasNoStreamIsNotKept) {
  const Json reply = TestClient(server_->port()).post(kPath, Json{{"prompt", "x"}}).json();
  EXPECT_EQ(get(reply["id"], "").status, 404);
}

}  // namespace
}  // namespace trireme
