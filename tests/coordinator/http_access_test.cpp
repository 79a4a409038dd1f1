// API keys: the file, and what a server does with them.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "coordinator/http/api_keys.h"
#include "coordinator/http/request_log.h"
#include "kernels/result.h"
#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kKey = "correct-horse-battery";
// SHA-256 of "staple-of-the-horse".
constexpr const char* kStapleHash =
    "sha256:986bf491e26c1ef1ab3a6c167275d6179ab9d2a327a6dcb2be520c2771b36810";

class KeyFile {
 public:
  explicit KeyFile(const std::string& text) {
    std::ofstream file(path());
    fs::permissions(path(), fs::perms::owner_read | fs::perms::owner_write);
    file << text;
  }
  std::string path() const { return folder_ / "keys"; }

 private:
  const TempFolder folder_;
};

std::string problem_of(const std::string& file, std::string_view from_environment = "") {
  try {
    ApiKeys::read(file, from_environment);
  } catch (const EnvironmentError& error) {
    return error.what();
  }
  return "";
}

TEST(HttpApiKeys, ReadsNamesKeysAndHashes) {
  const KeyFile file(fmt::format("# ours\n\n  alice:{}  \r\nbob:{}\ncarol:with:colons:in:it\n",
                                 kKey, kStapleHash));
  const ApiKeys keys = ApiKeys::read(file.path(), "from-the-environment");
  EXPECT_EQ(keys.size(), 4U);
  EXPECT_EQ(keys.find(kKey), "alice");
  EXPECT_EQ(keys.find("staple-of-the-horse"), "bob");
  EXPECT_EQ(keys.find("with:colons:in:it"), "carol");
  EXPECT_EQ(keys.find("from-the-environment"), "environment");
  for (const char* wrong : {"", "correct-horse-batter", "correct-horse-battery ",
                            "Correct-horse-battery", "alice", kStapleHash}) {
    EXPECT_FALSE(keys.find(wrong)) << wrong;
  }
  EXPECT_TRUE(ApiKeys::read("", "").empty());
}

TEST(HttpApiKeys, NamesWhatIsWrongAndNeverAKey) {
  const auto problem = [](const std::string& text) { return problem_of(KeyFile(text).path()); };
  EXPECT_THAT(problem(fmt::format("a:{}\n{}\n", kKey, kKey)), HasSubstr("line 2"));
  EXPECT_THAT(problem(fmt::format("{}\n", kKey)), Not(HasSubstr(kKey)));
  EXPECT_THAT(problem("a:short\n"), HasSubstr("16 to 512"));
  EXPECT_THAT(problem("a:sixteen characters\n"), HasSubstr("no spaces"));
  EXPECT_THAT(problem("a:sha256:12\n"), HasSubstr("64 hexadecimal"));
  EXPECT_THAT(problem(fmt::format("a b:{}\n", kKey)), HasSubstr("name:key"));
  EXPECT_THAT(problem(fmt::format("a:{}\na:{}x\n", kKey, kKey)), HasSubstr("twice"));
  EXPECT_THAT(problem(fmt::format("a:{}\nb:{}\n", kKey, kKey)), HasSubstr("same key"));
  EXPECT_THAT(problem("# nobody\n"), HasSubstr("no key"));
  EXPECT_THAT(problem_of("/no/such/file"), HasSubstr("--api-keys /no/such/file"));
  EXPECT_THAT(problem_of("/tmp"), HasSubstr("not a file"));
  EXPECT_THAT(problem_of("", "short"), HasSubstr("TRIREME_API_KEY"));
  std::string many;
  for (int i = 0; i <= 1000; ++i) many += fmt::format("n{}:{}-{}\n", i, kKey, i);
  EXPECT_THAT(problem(many), HasSubstr("more than 1000"));
}

TEST(HttpApiKeys, TermsStandBehindAKey) {
  const KeyFile file(
      fmt::format("alice:{}\nbob:{} \t max_requests=3  priority=-7\r\ncarol:{}-3 priority=0\n",
                  kKey, kStapleHash, kKey));
  const ApiKeys keys = ApiKeys::read(file.path(), "");
  EXPECT_EQ(keys.find("staple-of-the-horse"), "bob");
  const auto terms = keys.terms();
  EXPECT_EQ(terms.at("alice"), KeyTerms{});
  EXPECT_EQ(terms.at("bob"), (KeyTerms{.max_requests = 3, .priority = -7}));
  EXPECT_EQ(terms.at("carol"), (KeyTerms{.priority = 0}));
  for (const char* wrong :
       {"max_requests=0", "max_requests=100001", "max_requests=", "max_requests", "max_requests=3x",
        "max_requests=3 max_requests=3", "priority=1001", "priority=-1001", "priority= 3",
        "priority=1 priority=2", "prio=3", "battery", "=", "max_requests=3,priority=1"}) {
    SCOPED_TRACE(wrong);
    const std::string problem = problem_of(KeyFile(fmt::format("a:{} {}\n", kKey, wrong)).path());
    EXPECT_THAT(problem, HasSubstr("line 1"));
    EXPECT_THAT(problem, Not(HasSubstr(kKey)));
  }
}

TEST(HttpApiKeys, AFileThatOthersCanReadIsRefused) {
  const KeyFile file(fmt::format("a:{}\n", kKey));
  fs::permissions(file.path(), fs::perms(0644));
  EXPECT_THAT(problem_of(file.path()), HasSubstr("chmod o="));
  fs::permissions(file.path(), fs::perms(0640));
  EXPECT_EQ(problem_of(file.path()), "");
}

HttpAccess access_with_key(bool protect_metrics = false) {
  return {.keys = ApiKeys::read("", kKey), .protect_metrics = protect_metrics};
}

ClientResponse ask(const TestServer& server, const std::string& head, const std::string& body) {
  TestClient client(server.port());
  client.send(fmt::format("{}Host: a\r\nContent-Length: {}\r\n\r\n{}", head, body.size(), body));
  return client.read_response();
}

// Another key's prompts cannot be found out by how soon an answer comes.
TEST(HttpAccess, KeysDoNotShareCachedKv) {
  const KeyFile file(fmt::format("alice:{}\nbob:{}-2\n", kKey, kKey));
  TestServer server({}, nullptr, 30, {.keys = ApiKeys::read(file.path(), "")});
  const auto salt_of = [&](const std::string& key, const std::string& body) {
    const std::string head =
        fmt::format("POST /v1/completions HTTP/1.1\r\nAuthorization: Bearer {}\r\n", key);
    EXPECT_EQ(ask(server, head, body).status, 200);
    return server.service.requests().back().cache_salt;
  };
  const std::string plain = R"({"prompt":"x","max_tokens":2})";
  EXPECT_EQ(salt_of(kKey, plain), "alice\n");
  EXPECT_EQ(salt_of(kKey + std::string("-2"), plain), "bob\n");
  EXPECT_EQ(salt_of(kKey, R"({"prompt":"x","cache_salt":"s"})"), "alice\ns");
}

std::string post_with(const std::string& key, const std::string& path = "/v1/completions") {
  return fmt::format("POST {} HTTP/1.1\r\nAuthorization: Bearer {}\r\n", path, key);
}

TEST(HttpAccess, ARequestIsItsKeysWithItsPriority) {
  const std::string bob = kKey + std::string("-2");
  const KeyFile file(fmt::format("alice:{}\nbob:{} priority=5\n", kKey, bob));
  TestServer server({}, nullptr, 30, {.keys = ApiKeys::read(file.path(), "")});
  const auto priority_of = [&](const std::string& key, const std::string& asked) {
    const std::string body = R"({"input":"x","prompt":"x","max_tokens":2)" + asked + "}";
    std::set<int32_t> priorities;
    for (const char* path : {"/v1/completions", "/v1/embeddings"}) {
      EXPECT_EQ(ask(server, post_with(key, path), body).status, 200);
      const GenerateRequest request = server.service.requests().back();
      EXPECT_EQ(request.tenant, key == bob ? "bob" : "alice") << path;
      EXPECT_TRUE(request.cache_salt.starts_with(request.tenant + "\n")) << path;
      priorities.insert(request.priority);
    }
    EXPECT_EQ(priorities.size(), 1U);
    return *priorities.begin();
  };
  EXPECT_EQ(priority_of(kKey, ""), 0);
  EXPECT_EQ(priority_of(kKey, R"(,"priority":-9)"), -9) << "whose key says nothing";
  EXPECT_EQ(priority_of(bob, ""), 5);
  EXPECT_EQ(priority_of(bob, R"(,"priority":null)"), 5);
  EXPECT_EQ(priority_of(bob, R"(,"priority":-9)"), 5);
  EXPECT_EQ(priority_of(bob, R"(,"priority":9)"), 9);
}

// A request counts until its answer has ended, whole or as a stream, or its client has gone.
TEST(HttpAccess, AKeyHasItsLimitOfRequests) {
  const std::string bob = kKey + std::string("-2");
  const KeyFile file(fmt::format("alice:{} max_requests=2\nbob:{}\n", kKey, bob));
  TestServer server({}, nullptr, 30, {.keys = ApiKeys::read(file.path(), "")});
  server.service.set_mode(FakeService::Mode::kSilent);
  const auto begin = [&](TestClient& client, const std::string& body) {
    const size_t n_before = server.service.requests().size();
    client.send(fmt::format("{}Host: a\r\nContent-Length: {}\r\n\r\n{}", post_with(kKey),
                            body.size(), body));
    EXPECT_TRUE(server.service.wait_for_requests(n_before + 1));
  };
  const std::string body = R"({"prompt":"x","max_tokens":2})";
  TestClient whole(server.port());
  begin(whole, body);
  {
    TestClient gone(server.port());
    begin(gone, R"({"prompt":"x","max_tokens":2,"stream":true,"n":3})");
    const ClientResponse refused = ask(server, post_with(kKey), body);
    EXPECT_EQ(refused.status, 429);
    EXPECT_EQ(refused.headers.at("retry-after"), "1");
    EXPECT_EQ(refused.json()["error"]["code"], "rate_limit_exceeded");
    EXPECT_THAT(refused.body, HasSubstr("2 requests with this API key (alice)"));
  }
  EXPECT_TRUE(server.service.wait_for_cancels(3));
  TestClient stream(server.port());
  begin(stream, R"({"prompt":"x","max_tokens":2,"stream":true})");
  EXPECT_EQ(ask(server, post_with(kKey), body).status, 429);
  server.service.release();
  EXPECT_EQ(whole.read_response().status, 200);
  EXPECT_EQ(ask(server, post_with(kKey), body).status, 200) << "as soon as it has its answer";
  EXPECT_EQ(ask(server, post_with(bob), body).status, 200);
  EXPECT_EQ(ask(server, post_with(kKey), R"({"prompt":7.5})").status, 400);
  EXPECT_EQ(ask(server, post_with(kKey), body).status, 200) << "a refusal counts no longer";
}

TEST(HttpAccess, RequestsForNumbersCountForTheirKey) {
  const KeyFile file(fmt::format("alice:{} max_requests=1\n", kKey));
  TestServer server({}, nullptr, 30, {.keys = ApiKeys::read(file.path(), "")});
  const std::string head = post_with(kKey, "/v1/embeddings");
  const std::string body = R"({"input":["x","y"]})";
  server.service.set_mode(FakeService::Mode::kSilent);
  {
    TestClient gone(server.port());
    gone.send(fmt::format("{}Host: a\r\nContent-Length: {}\r\n\r\n{}", head, body.size(), body));
    ASSERT_TRUE(server.service.wait_for_requests(2));
    const ClientResponse refused = ask(server, head, body);
    EXPECT_EQ(refused.status, 429);
    EXPECT_EQ(refused.json()["error"]["code"], "rate_limit_exceeded");
    EXPECT_EQ(ask(server, post_with(kKey), R"({"prompt":"x"})").status, 429) << "of any kind";
  }
  ASSERT_TRUE(server.service.wait_for_cancels(2));
  server.service.release();
  EXPECT_EQ(ask(server, head, body).status, 200) << "its client went";
  EXPECT_EQ(ask(server, head, body).status, 200) << "as soon as it has its answer";
  EXPECT_EQ(ask(server, head, R"({"input":7.5})").status, 400);
  server.service.set_mode(FakeService::Mode::kBreak);
  EXPECT_EQ(ask(server, head, body).status, 500);
  server.service.release();
  EXPECT_EQ(ask(server, head, body).status, 200) << "neither a refusal nor a failure counts";
}

TEST(HttpAccess, AWrongOrMissingKeyIs401) {
  TestServer server({}, nullptr, 30, access_with_key());
  const std::string post = "POST /v1/completions HTTP/1.1\r\n";
  const std::string body = R"({"prompt":"x","max_tokens":2})";
  for (const std::string& header :
       {std::string(), std::string("Authorization: Bearer\r\n"),
        std::string("Authorization: Bearer \r\n"), fmt::format("Authorization: {}\r\n", kKey),
        fmt::format("Authorization: Basic {}\r\n", kKey),
        fmt::format("Authorization: Bearer  {}\r\n", kKey),
        fmt::format("Authorization: Bearer {}x\r\n", kKey),
        fmt::format("Authorization: Bearer x\r\nAuthorization: Bearer {}\r\n", kKey),
        fmt::format("X-Api-Key: {}\r\n", kKey)}) {
    SCOPED_TRACE(header);
    const ClientResponse response = ask(server, post + header, body);
    EXPECT_EQ(response.status, 401);
    EXPECT_EQ(response.headers.at("www-authenticate"), "Bearer");
    EXPECT_EQ(response.json()["error"]["code"], "invalid_api_key");
    EXPECT_EQ(response.json()["error"]["type"], "invalid_request_error");
    EXPECT_THAT(response.body, Not(HasSubstr(kKey)));
  }
  EXPECT_TRUE(server.service.requests().empty());
  for (const char* scheme : {"Bearer", "bearer"}) {
    EXPECT_EQ(
        ask(server, post + fmt::format("Authorization: {} {}\r\n", scheme, kKey), body).status,
        200);
  }
}

TEST(HttpAccess, WithoutAKeyNoBodyIsRead) {
  TestServer server({}, nullptr, 30, access_with_key());
  TestClient client(server.port());
  client.send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n");
  EXPECT_EQ(client.read_response().status, 401);
  EXPECT_TRUE(client.at_end());
}

TEST(HttpAccess, ProbesAreOpenTheRestIsNot) {
  TestServer server({}, nullptr, 30, access_with_key());
  TestServer strict({}, nullptr, 30, access_with_key(/*protect_metrics=*/true));
  const auto status = [](const TestServer& to, const std::string& path) {
    return TestClient(to.port()).get(path).status;
  };
  for (const char* path : {"/health", "/ready", "/ping", "/version"}) {
    EXPECT_EQ(status(server, path), 200) << path;
    EXPECT_EQ(status(strict, path), 200) << path;
  }
  for (const char* path : {"/metrics", "/load", "/metrics?x=1"}) {
    EXPECT_EQ(status(server, path), 200) << path;
    EXPECT_EQ(status(strict, path), 401) << path;
  }
  for (const char* path : {"/v1/models", "/v1/models/fake", "/tokenize", "/nothing", "/",
                           "/health/../v1/models", "/%68ealth/x", "/health%00"}) {
    EXPECT_EQ(status(server, path), 401) << path;
  }
}

TEST(HttpRequestLog, OneLineThatNobodyCanForge) {
  HttpRequest request;
  request.method = "POST";
  request.path = "/v1/x\r\nrequest  bob";
  request.body = "{\"prompt\":\n\"\x1b[2J\"}";
  EXPECT_EQ(request_log_line(request),
            "request  - POST /v1/x\\x0d\\x0arequest  bob {\"prompt\":\\x0a\"\\x1b[2J\"}");
  request.key_name = "alice";
  request.body = std::string(100000, 'b');
  const std::string line = request_log_line(request);
  EXPECT_THAT(line, HasSubstr("request  alice "));
  EXPECT_THAT(line, HasSubstr("(100000 bytes)"));
  EXPECT_LT(line.size(), 20000U);
}

}  // namespace
}  // namespace trireme
