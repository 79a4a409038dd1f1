#include "coordinator/http/http_server.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kernels/result.h"
#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"

namespace trireme {
namespace {

using testing::HasSubstr;

constexpr const char* kHead = "POST /v1/completions HTTP/1.1\r\nHost: a\r\n";

ApiServerOptions options_at(const std::string& host, uint16_t port) {
  ApiServerOptions options;
  options.host = host;
  options.port = port;
  return options;
}

// What a server answers to raw bytes, and that it then ends the connection.
ClientResponse answer_and_end(uint16_t port, const std::string& bytes) {
  TestClient client(port);
  client.send(bytes);
  ClientResponse response = client.read_response();
  EXPECT_TRUE(client.at_end()) << "the connection is still open after: " << response.body;
  return response;
}

TEST(HttpServer, PortInUseNamesCauseAndMend) {
  TestServer first;
  FakeService service;
  ByteCodec codec;
  Metrics metrics({.model_name = "m", .version = "v"});
  ApiServer server(service, codec, {.id = "m"}, metrics, options_at("127.0.0.1", first.port()));
  try {
    server.start();
    FAIL() << "two servers on one port";
  } catch (const EnvironmentError& error) {
    EXPECT_THAT(error.what(), HasSubstr(std::to_string(first.port())));
    EXPECT_THAT(error.what(), HasSubstr("--port"));
  }
}

TEST(HttpServer, UnknownHostNamesIt) {
  FakeService service;
  ByteCodec codec;
  Metrics metrics({.model_name = "m", .version = "v"});
  ApiServer server(service, codec, {.id = "m"}, metrics, options_at("256.1.1.1", 0));
  EXPECT_THROW(server.start(), EnvironmentError);
}

TEST(HttpServer, KeepsTheConnection) {
  TestServer server;
  TestClient client(server.port());
  for (int i = 0; i < 3; ++i) {
    const ClientResponse response = client.get("/ping");
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.headers.at("connection"), "keep-alive");
  }
  // Pipelined, the last with "Connection: close".
  client.send(
      "GET /ping HTTP/1.1\r\nHost: a\r\n\r\nGET /version HTTP/1.1\r\nHost: a\r\n"
      "Connection: close\r\n\r\n");
  EXPECT_THAT(client.read_response().body, HasSubstr("ok"));
  EXPECT_THAT(client.read_response().body, HasSubstr("version"));
  EXPECT_TRUE(client.at_end());
}

TEST(HttpServer, Http10GetsAStreamWithoutChunks) {
  TestServer server;
  TestClient client(server.port());
  const std::string body = R"({"prompt":"x","max_tokens":2,"stream":true})";
  client.send(fmt::format("POST /v1/completions HTTP/1.0\r\nContent-Length: {}\r\n\r\n{}",
                          body.size(), body));
  const ClientResponse response = client.read_response();
  EXPECT_EQ(response.status, 200);
  EXPECT_FALSE(response.headers.contains("transfer-encoding"));
  EXPECT_EQ(response.events().size(), 3U);
}

TEST(HttpServer, ChunkedBodyAndContinue) {
  TestServer server;
  TestClient client(server.port());
  client.send(std::string(kHead) + "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("a\r\n{\"prompt\":\r\n4\r\n\"x\"}\r\n0\r\n\r\n");
  EXPECT_EQ(client.read_response().status, 200);
}

TEST(HttpServer, OversizeHeaderBodyAndCount) {
  TestServer server({.max_header_bytes = 2000, .max_body_bytes = 1000});
  const std::string long_header =
      std::string(kHead) + "X-Long: " + std::string(100000, 'a') + "\r\n\r\n";
  EXPECT_EQ(answer_and_end(server.port(), long_header).status, 431);
  // Refused by its length alone, before any of it comes.
  const ClientResponse announced =
      answer_and_end(server.port(), std::string(kHead) + "Content-Length: 1073741824\r\n\r\n");
  EXPECT_EQ(announced.status, 413);
  EXPECT_THAT(announced.body, HasSubstr("1000 bytes"));
  const std::string chunked = std::string(kHead) + "Transfer-Encoding: chunked\r\n\r\n800\r\n" +
                              std::string(0x800, ' ') + "\r\n0\r\n\r\n";
  EXPECT_EQ(answer_and_end(server.port(), chunked).status, 413);
  // Chunk extensions have no length of their own.
  const std::string extension =
      std::string(kHead) + "Transfer-Encoding: chunked\r\n\r\n1;" + std::string(100000, 'e');
  const int status = answer_and_end(server.port(), extension).status;
  EXPECT_TRUE(status == 431 || status == 400) << status;
}

TEST(HttpServer, BodiesTogetherAreBounded) {
  TestServer server({.max_buffered_body_bytes = 5000});
  TestClient first(server.port());
  first.send(std::string(kHead) + "Content-Length: 4000\r\n\r\n" + std::string(3999, ' '));
  EXPECT_EQ(TestClient(server.port()).get("/ping").status, 200);
  // The first body may still be on its way when the second is counted.
  const auto second_gets = [&server](int wanted) {
    int status = 0;
    for (int i = 0; i < 1000 && status != wanted; ++i) {
      status = TestClient(server.port()).post("/v1/completions", std::string(4000, ' ')).status;
    }
    return status;
  };
  EXPECT_EQ(second_gets(503), 503);
  first.send(" ");
  EXPECT_EQ(first.read_response().status, 400);  // empty, but taken
  EXPECT_EQ(second_gets(400), 400) << "the first one's room is free a moment after its answer";
}

TEST(HttpServer, AmbiguousMessages) {
  TestServer server;
  const std::vector<std::string> fields = {
      "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
      "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
      "Content-Length: 5\r\nContent-Length: 6\r\n",
      "Content-Length: 5\r\nContent-Length: 5\r\n",
      "Content-Length: -1\r\n",
      "Content-Length: +5\r\n",
      "Content-Length: 5, 5\r\n",
      "Content-Length: 0x5\r\n",
      "Content-Length: 99999999999999999999999\r\n",
      "Transfer-Encoding: identity\r\n",
      "Transfer-Encoding: xchunked\r\n",
      "Transfer-Encoding: gzip, chunked\r\n",
      "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
      "Transfer-Encoding : chunked\r\n",
      "Transfer-Encoding:\r\n chunked\r\n",
      "X-Folded: a\r\n\tTransfer-Encoding: chunked\r\n",
      "X-Bare: a\nTransfer-Encoding: chunked\r\n",
      "X-Bare: a\rTransfer-Encoding: chunked\r\n",
      "Host: b\r\n",
      "No colon\r\n",
  };
  for (const std::string& field : fields) {
    SCOPED_TRACE(field);
    const ClientResponse response =
        answer_and_end(server.port(), std::string(kHead) + field + "\r\n0\r\n\r\n");
    EXPECT_EQ(response.status, 400) << response.body;
    EXPECT_EQ(response.json()["error"]["type"], "invalid_request_error");
  }
  for (const char* start :
       {"GET /ping HTTP/1.1\r\n\r\n", "GET http://a/ping HTTP/1.1\r\nHost: a\r\n\r\n",
        "garbage\r\n\r\n", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /ping HTTP/3.0\r\nHost: a\r\n\r\n"}) {
    SCOPED_TRACE(start);
    EXPECT_EQ(answer_and_end(server.port(), start).status, 400);
  }
  EXPECT_TRUE(server.service.requests().empty());
}

TEST(HttpServer, BadJson) {
  TestServer server;
  TestClient client(server.port());
  const std::string deep(100000, '[');
  for (const std::string& body :
       {std::string(""), std::string("{"), std::string("[1]"), std::string("nul"), deep,
        "{\"prompt\":" + deep, std::string(R"({"prompt": "x", "temperature": NaN})"),
        std::string(R"({"prompt": "x", "temperature": 1e999})"),
        std::string("{\"prompt\": \"\xff\xfe\"}"), std::string(R"({"prompt": "\ud800"})"),
        std::string("{\"prompt\": \"x\"} trailing")}) {
    const ClientResponse response = client.post("/v1/completions", body);
    EXPECT_EQ(response.status, 400) << body.substr(0, 100);
    EXPECT_TRUE(response.json()["error"]["message"].is_string()) << response.body;
  }
  EXPECT_THAT(client.post("/v1/completions", deep).body, HasSubstr("64 levels"));
  EXPECT_EQ(client.get("/ping").status, 200);
}

TEST(HttpServer, SlowClientIsEnded) {
  TestServer server({.request_timeout_ms = 50, .idle_timeout_ms = 50});
  // Neither of these ever completes a request; another client is served meanwhile.
  TestClient slow_header(server.port());
  slow_header.send("POST /v1/comp");
  TestClient slow_body(server.port());
  slow_body.send(std::string(kHead) + "Content-Length: 10\r\n\r\n{");
  TestClient silent(server.port());
  EXPECT_EQ(TestClient(server.port()).get("/ping").status, 200);
  EXPECT_EQ(slow_header.read_response().status, 408);
  EXPECT_TRUE(slow_header.at_end());
  EXPECT_EQ(slow_body.read_response().status, 408);
  EXPECT_TRUE(slow_body.at_end());
  EXPECT_TRUE(silent.at_end());
}

TEST(HttpServer, ClientThatNeverReadsIsCutAndCancelled) {
  TestServer server({.max_outgoing_bytes = 100000});
  server.service.set_script(std::string(10000, 'a'));
  server.service.set_mode(FakeService::Mode::kEndless);
  TestClient deaf(server.port(), /*receive_buffer_bytes=*/4096);
  deaf.send(post_text("/v1/completions", R"({"prompt":"x","stream":true})"));
  EXPECT_TRUE(server.service.wait_for_cancels(1));
  EXPECT_EQ(TestClient(server.port()).get("/ping").status, 200);
}

TEST(HttpServer, ClientThatStopsReadingTimesOut) {
  TestServer server({.max_outgoing_bytes = 1U << 30, .write_timeout_ms = 50});
  server.service.set_script(std::string(10000, 'a'));
  server.service.set_mode(FakeService::Mode::kEndless);
  TestClient deaf(server.port(), /*receive_buffer_bytes=*/4096);
  deaf.send(post_text("/v1/completions", R"({"prompt":"x","stream":true})"));
  EXPECT_TRUE(server.service.wait_for_cancels(1));
}

TEST(HttpServer, TooManyConnections) {
  TestServer server({.max_connections = 2});
  TestClient first(server.port());
  TestClient second(server.port());
  EXPECT_EQ(first.get("/ping").status, 200);
  EXPECT_EQ(second.get("/ping").status, 200);
  TestClient third(server.port());
  const ClientResponse refused = third.read_response();
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.headers.contains("retry-after"));
  EXPECT_EQ(first.get("/ping").status, 200);
}

TEST(HttpServer, DrainFinishesWhatRuns) {
  TestServer server;
  server.service.set_mode(FakeService::Mode::kSilent);
  TestClient client(server.port());
  client.send(post_text("/v1/completions", R"({"prompt":"x","max_tokens":4})"));
  ASSERT_TRUE(server.service.wait_for_requests(1));
  EXPECT_FALSE(server.server.drain(/*timeout_ms=*/20));  // it runs yet
  EXPECT_EQ(TestClient(server.port()).get("/ready").status, 503);
  server.service.release();
  EXPECT_TRUE(server.server.drain(/*timeout_ms=*/20000));
  server.server.stop();
  EXPECT_THAT(client.read_response().body, HasSubstr("Once"));
  EXPECT_TRUE(client.at_end());
}

TEST(HttpServer, StopCancelsWhatRuns) {
  TestServer server;
  server.service.set_mode(FakeService::Mode::kSilent);
  TestClient client(server.port());
  client.send(post_text("/v1/completions", R"({"prompt":"x","stream":true})"));
  ASSERT_TRUE(server.service.wait_for_requests(1));
  server.server.stop();
  EXPECT_TRUE(server.service.wait_for_cancels(1));
  EXPECT_EQ(client.read_response().status, 0);
}

TEST(HttpServer, HandlerThatThrowsOrForgetsAnswers500) {
  auto pool = std::make_shared<TaskPool>(1);
  std::vector<Route> routes = {
      {"GET", "/throw", HandlerCost::kHeavy,
       [](const HttpRequest&, const ResponderPtr&) { throw std::runtime_error("oops"); }},
      {"GET", "/forget", HandlerCost::kQuick, [](const HttpRequest&, const ResponderPtr&) {}}};
  HttpServer server({}, std::move(routes), pool);
  server.start();
  TestClient client(server.port());
  EXPECT_EQ(client.get("/throw").status, 500);
  EXPECT_EQ(client.get("/forget").status, 500);
  server.stop();
  pool->stop();
}

}  // namespace
}  // namespace trireme
