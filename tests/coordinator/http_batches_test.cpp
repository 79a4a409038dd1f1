#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "coordinator/batch/batch_service.h"
#include "coordinator/batch/batch_store.h"
#include "coordinator/batch/file_upload.h"
#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

constexpr const char* kSecret = "0123456789abcdef";
constexpr const char* kOtherSecret = "fedcba9876543210";

std::string request_line(const std::string& custom_id, int max_tokens = 4) {
  return Json({{"custom_id", custom_id},
               {"method", "POST"},
               {"url", "/v1/completions"},
               {"body", {{"prompt", custom_id}, {"max_tokens", max_tokens}}}})
             .dump() +
         "\n";
}

std::string lines(int n) {
  std::string text;
  for (int i = 0; i < n; ++i) text += request_line("line " + std::to_string(i));
  return text;
}

std::string form(const std::string& content, const std::string& purpose = "batch") {
  return "--B\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n" + purpose +
         "\r\n--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n"
         "Content-Type: application/octet-stream\r\n\r\n" +
         content + "\r\n--B--\r\n";
}

class HttpBatches : public testing::Test {
 protected:
  HttpBatches() { start(); }
  ~HttpBatches() override { stop(); }

  void start(const HttpLimits& limits = {}) {
    stop();
    store_ = std::make_unique<BatchStore>(BatchStoreOptions{.folder = folder_ / "store"});
    HttpAccess access;
    if (with_keys_) {
      folder_.write("keys", std::string("one:") + kSecret + "\ntwo:" + kOtherSecret + "\n");
      std::filesystem::permissions(folder_ / "keys", std::filesystem::perms::owner_read |
                                                         std::filesystem::perms::owner_write);
      access.keys = ApiKeys::read(folder_ / "keys", "");
    }
    server_ = std::make_unique<TestServer>(limits, nullptr, 30, access, store_.get());
  }
  void stop() {
    server_.reset();
    store_.reset();
  }

  ClientResponse send(const std::string& method, const std::string& path,
                      const std::string& body = "", const std::string& fields = "") const {
    TestClient client(server_->port());
    const std::string key = with_keys_ ? "Authorization: Bearer " + key_ + "\r\n" : "";
    client.send(method + " " + path + " HTTP/1.1\r\nHost: h\r\n" + key + fields +
                "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    return client.read_response();
  }
  ClientResponse upload(const std::string& body) const {
    return send("POST", "/v1/files", body, "Content-Type: multipart/form-data; boundary=B\r\n");
  }
  std::string upload_lines(const std::string& content) const {
    const ClientResponse response = upload(form(content));
    EXPECT_EQ(response.status, 200) << response.body;
    return response.json()["id"];
  }
  ClientResponse create(const std::string& file_id,
                        const std::string& endpoint = "/v1/completions") const {
    return send("POST", "/v1/batches",
                Json({{"input_file_id", file_id},
                      {"endpoint", endpoint},
                      {"completion_window", "24h"},
                      {"metadata", {{"a", "b"}}}})
                    .dump());
  }
  std::string batch_of(const std::string& content) const {
    const ClientResponse response = create(upload_lines(content));
    EXPECT_EQ(response.status, 200) << response.body;
    return response.json()["id"];
  }
  // As it is once `status` came, or after 20 s.
  Json wait_for(const std::string& id, const std::string& status) const {
    for (int i = 0;; ++i) {
      Json batch = send("GET", "/v1/batches/" + id).json();
      if (batch["status"] == status || i == 2000) return batch;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  std::vector<Json> content_of(const Json& file_id) const {
    const ClientResponse response =
        send("GET", "/v1/files/" + file_id.get<std::string>() + "/content");
    EXPECT_EQ(response.status, 200) << response.body;
    std::vector<Json> all;
    std::istringstream in(response.body);
    for (std::string line; std::getline(in, line);) all.push_back(Json::parse(line));
    return all;
  }

  const TempFolder folder_;
  bool with_keys_ = false;
  std::string key_ = kSecret;
  std::unique_ptr<BatchStore> store_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(HttpBatches, FilesComeAndGo) {
  const std::string content(1000000, 'x');
  const ClientResponse response = upload(form(content));
  ASSERT_EQ(response.status, 200) << response.body;
  const Json file = response.json();
  EXPECT_EQ(file["bytes"], content.size());
  EXPECT_EQ(file["filename"], "in.jsonl");
  EXPECT_EQ(file["purpose"], "batch");
  const std::string path = "/v1/files/" + file["id"].get<std::string>();
  EXPECT_EQ(send("GET", path).json(), file);
  EXPECT_EQ(send("GET", path + "/content").body, content);
  EXPECT_EQ(send("GET", "/v1/files").json()["data"], Json::array({file}));
  start();  // again
  EXPECT_EQ(send("GET", path).json(), file);
  EXPECT_EQ(send("DELETE", path).json()["deleted"], true);
  EXPECT_EQ(send("GET", path).status, 404);
  EXPECT_EQ(send("GET", path + "/content").status, 404);
  EXPECT_EQ(send("DELETE", path).status, 404);
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "store/files"));
}

TEST_F(HttpBatches, PagesOfFiles) {
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(upload_lines("x"));
  const Json first = send("GET", "/v1/files?limit=2&order=asc").json();
  EXPECT_EQ(first["first_id"], ids[0]);
  EXPECT_EQ(first["last_id"], ids[1]);
  EXPECT_EQ(first["has_more"], true);
  const Json last = send("GET", "/v1/files?limit=3&order=asc&after=" + ids[1]).json();
  EXPECT_EQ(last["data"].size(), 3U);
  EXPECT_EQ(last["has_more"], false);
  EXPECT_EQ(send("GET", "/v1/files").json()["first_id"], ids[4]);
  EXPECT_EQ(send("GET", "/v1/files?purpose=batch_output").json()["data"].size(), 0U);
  for (const char* query : {"limit=0", "limit=x", "order=up", "limit=1&limit=2", "after=%"})
    EXPECT_EQ(send("GET", std::string("/v1/files?") + query).status, 400) << query;
}

TEST_F(HttpBatches, UploadsThatAreRefused) {
  EXPECT_EQ(upload("no form").status, 400);
  EXPECT_EQ(upload("").status, 400);
  EXPECT_EQ(upload(form("")).status, 400);
  EXPECT_THAT(upload(form("x", "vision")).body, HasSubstr("purpose must be"));
  EXPECT_THAT(upload(form("x", std::string(65, 'x'))).body, HasSubstr("purpose is longer"));
  EXPECT_THAT(upload("--B\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n").body,
              HasSubstr("not supported"));
  EXPECT_THAT(upload(form("x").substr(0, 60)).body, HasSubstr("ends in its boundary"));
  EXPECT_EQ(send("POST", "/v1/files", form("x")).status, 400);
  TestClient client(server_->port());
  client.send("POST /v1/files HTTP/1.1\r\nHost: h\r\nContent-Length: " +
              std::to_string(kMaxUploadBodyBytes + 1) + "\r\n\r\n");
  EXPECT_EQ(client.read_response().status, 413);
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "store/files"));
}

// More than the limit of other bodies, and slower than the limit of their time.
TEST_F(HttpBatches, LongUploadsAreTakenAsTheyCome) {
  HttpLimits limits;
  limits.max_body_bytes = 1000;
  limits.max_buffered_body_bytes = 1U << 20;
  start(limits);
  const std::string content(3U << 20, 'y');
  EXPECT_EQ(send("POST", "/v1/batches", std::string(1001, ' ')).status, 413);
  const std::string id = upload_lines(content);
  EXPECT_EQ(send("GET", "/v1/files/" + id + "/content").body, content);
  // Chunked, in pieces of any size.
  TestClient client(server_->port());
  client.send(
      "POST /v1/files HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Type: "
      "multipart/form-data; boundary=B\r\n\r\n");
  const std::string body = form(content);
  for (size_t i = 0; i < body.size(); i += 300001) {
    const std::string piece = body.substr(i, 300001);
    std::ostringstream size;
    size << std::hex << piece.size();
    client.send(size.str() + "\r\n" + piece + "\r\n");
  }
  client.send("0\r\n\r\n");
  const ClientResponse response = client.read_response();
  EXPECT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.json()["bytes"], content.size());
}

TEST_F(HttpBatches, AnUploadWhoseClientGoesLeavesNothing) {
  {
    TestClient client(server_->port());
    client.send(
        "POST /v1/files HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\nContent-Type: "
        "multipart/form-data; boundary=B\r\n\r\n" +
        form(std::string(600000, 'x')).substr(0, 600000));
    EXPECT_EQ(send("GET", "/ping").status, 200);
  }
  for (int i = 0; i < 2000 && !std::filesystem::is_empty(folder_ / "store/files"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "store/files"));
  upload_lines("x");
}

TEST_F(HttpBatches, ABatchIsAnsweredInOrder) {
  const std::string id = batch_of(lines(20) + "bad\n" + request_line("last", 100000));
  const Json batch = wait_for(id, "completed");
  ASSERT_EQ(batch["status"], "completed") << batch;
  EXPECT_EQ(batch["request_counts"], Json({{"total", 22}, {"completed", 20}, {"failed", 2}}));
  EXPECT_EQ(batch["metadata"], Json({{"a", "b"}}));
  const std::vector<Json> answers = content_of(batch["output_file_id"]);
  ASSERT_EQ(answers.size(), 20U);
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i]["custom_id"], "line " + std::to_string(i));
    EXPECT_EQ(answers[i]["response"]["status_code"], 200);
    EXPECT_EQ(answers[i]["response"]["body"]["choices"][0]["text"], "Once");
    EXPECT_EQ(answers[i]["response"]["body"]["created"], batch["created_at"]);
  }
  const std::vector<Json> errors = content_of(batch["error_file_id"]);
  ASSERT_EQ(errors.size(), 2U);
  EXPECT_EQ(errors[0]["custom_id"], nullptr);
  EXPECT_EQ(errors[1]["response"]["body"]["error"]["param"], "max_tokens");
  EXPECT_EQ(send("GET", "/v1/batches").json()["data"], Json::array({batch}));
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "store/runs"));
}

// Every sequence has a seed of its own that another run would have too.
TEST_F(HttpBatches, SeedsAreThoseOfTheFile) {
  const std::string content = lines(6);
  wait_for(batch_of(content), "completed");
  wait_for(batch_of(content), "completed");
  std::vector<uint64_t> seeds;
  for (const GenerateRequest& request : server_->service.requests())
    seeds.push_back(request.sampling.seed);
  ASSERT_EQ(seeds.size(), 12U);
  std::sort(seeds.begin(), seeds.end());
  EXPECT_EQ(std::unique(seeds.begin(), seeds.end()) - seeds.begin(), 6);
}

TEST_F(HttpBatches, AServerAfterAKillGoesOn) {
  server_->service.set_mode(FakeService::Mode::kSilent);
  const std::string id = batch_of(lines(30));
  EXPECT_TRUE(server_->service.wait_for_requests(4));
  EXPECT_EQ(server_->service.requests().size(), 4U);  // half of what can be computed at once
  start();
  const Json batch = wait_for(id, "completed");
  EXPECT_EQ(batch["request_counts"]["completed"], 30) << batch;
  EXPECT_EQ(content_of(batch["output_file_id"]).size(), 30U);
}

// A disk without room is no fault of the batch: it waits for one that has some.
TEST_F(HttpBatches, ABatchOutlivesADiskThatFails) {
  std::filesystem::remove(folder_ / "store/runs");
  const std::string id = batch_of(lines(3));
  EXPECT_EQ(wait_for(id, "in_progress")["status"], "in_progress");
  start();
  EXPECT_EQ(wait_for(id, "completed")["request_counts"]["completed"], 3);
}

TEST_F(HttpBatches, ABatchWhoseFilesWereChangedFails) {
  server_->service.set_mode(FakeService::Mode::kSilent);
  const std::string strange = batch_of(lines(3));
  const std::string gone = batch_of(lines(3));
  EXPECT_TRUE(server_->service.wait_for_requests(3));
  const std::string file = send("GET", "/v1/batches/" + gone).json()["input_file_id"];
  stop();
  folder_.write("store/runs/" + strange, "a diary\n");
  std::filesystem::remove(folder_ / "store/files" / file);
  start();
  for (const std::string& id : {strange, gone})
    EXPECT_EQ(wait_for(id, "failed")["status"], "failed");
}

TEST_F(HttpBatches, ACancelledBatchKeepsItsAnswers) {
  server_->service.set_mode(FakeService::Mode::kSilent);
  const std::string id = batch_of(lines(30));
  const std::string path = "/v1/batches/" + id + "/cancel";
  EXPECT_TRUE(server_->service.wait_for_requests(4));
  EXPECT_EQ(send("POST", path).json()["status"], "cancelling");
  EXPECT_TRUE(server_->service.wait_for_cancels(4));
  const Json batch = wait_for(id, "cancelled");
  EXPECT_EQ(batch["status"], "cancelled");
  EXPECT_EQ(batch["output_file_id"], nullptr);
  EXPECT_EQ(send("POST", path).status, 400);
}

TEST(BatchAllowance, LeavesRoomForLiveRequests) {
  EXPECT_EQ(batch_allowance(16, 0, 0), 8);  // nobody else
  EXPECT_EQ(batch_allowance(16, 8, 8), 8);
  EXPECT_EQ(batch_allowance(16, 1, 0), 4);   // one live
  EXPECT_EQ(batch_allowance(16, 13, 1), 3);  // two of three free ones
  EXPECT_LE(batch_allowance(16, 15, 2), 2);  // the last one stays free
  EXPECT_LE(batch_allowance(16, 40, 2), 2);  // live ones wait
  EXPECT_EQ(batch_allowance(1, 0, 0), 1);
  EXPECT_LE(batch_allowance(1, 1, 0), 0);
}

TEST_F(HttpBatches, LiveRequestsComeFirst) {
  server_->service.set_mode(FakeService::Mode::kSilent);
  std::vector<std::unique_ptr<TestClient>> live;
  for (size_t i = 0; i < 7; ++i) {  // of 8 slots
    live.push_back(std::make_unique<TestClient>(server_->port()));
    live.back()->send(post_text("/v1/completions", R"({"prompt":"x"})"));
    EXPECT_TRUE(server_->service.wait_for_requests(i + 1));
  }
  const std::string id = batch_of(lines(30));
  wait_for(id, "in_progress");
  live.back().reset();  // now a slot is left besides the last
  EXPECT_TRUE(server_->service.wait_for_cancels(1));
  EXPECT_TRUE(server_->service.wait_for_requests(8));
  EXPECT_EQ(server_->service.requests().back().prompt_ids.size(), std::string("line 0").size());
  live.clear();
  EXPECT_TRUE(server_->service.wait_for_requests(11));
  server_->service.release();
  EXPECT_EQ(wait_for(id, "completed")["request_counts"]["completed"], 30);
}

TEST_F(HttpBatches, ARefusalForNowIsNoAnswer) {
  server_->service.set_refusal(Error{"the server is shutting down", "draining"});
  const std::string id = batch_of(lines(3));
  wait_for(id, "in_progress");
  server_->service.set_refusal(std::nullopt);
  EXPECT_EQ(wait_for(id, "completed")["request_counts"]["completed"], 3);
}

TEST_F(HttpBatches, BatchesThatAreRefused) {
  const std::string file = upload_lines("x\n");
  EXPECT_EQ(create("file-none").status, 400);
  EXPECT_EQ(create(file, "/v1/embeddings").status, 400);
  const auto post = [&](const Json& body) { return send("POST", "/v1/batches", body.dump()); };
  Json body = {{"input_file_id", file}, {"endpoint", "/v1/completions"}};
  EXPECT_THAT(post(body).body, HasSubstr("completion_window"));
  body["completion_window"] = "24h";
  for (const Json& metadata : {Json("x"), Json({{"a", 1}}), Json({{"a", std::string(513, 'x')}}),
                               Json({{std::string(65, 'x'), "a"}})}) {
    body["metadata"] = metadata;
    EXPECT_EQ(post(body).status, 400) << metadata;
  }
  EXPECT_EQ(send("POST", "/v1/batches", "x").status, 400);
  EXPECT_EQ(send("GET", "/v1/batches/none").status, 404);
  EXPECT_EQ(send("POST", "/v1/batches/none/cancel").status, 404);
  const Json empty = wait_for(batch_of("\n \n"), "failed");
  EXPECT_THAT(empty["errors"]["data"][0]["message"].get<std::string>(), HasSubstr("no requests"));
}

TEST_F(HttpBatches, AFileThatIsReadCannotGo) {
  server_->service.set_mode(FakeService::Mode::kSilent);
  const std::string file = upload_lines(lines(3));
  const std::string id = create(file).json()["id"];
  EXPECT_EQ(send("DELETE", "/v1/files/" + file).status, 400);
  server_->service.release();
  wait_for(id, "completed");
  EXPECT_EQ(send("DELETE", "/v1/files/" + file).status, 200);
}

TEST_F(HttpBatches, BelongToTheirKey) {
  with_keys_ = true;
  start();
  const std::string file = upload_lines(lines(3));
  const std::string id = create(file).json()["id"];
  const Json batch = wait_for(id, "completed");
  const std::string output = batch["output_file_id"];
  key_ = kOtherSecret;
  EXPECT_EQ(send("GET", "/v1/files/" + file).status, 404);
  EXPECT_EQ(send("GET", "/v1/files/" + output + "/content").status, 404);
  EXPECT_EQ(send("DELETE", "/v1/files/" + file).status, 404);
  EXPECT_EQ(send("GET", "/v1/batches/" + id).status, 404);
  EXPECT_EQ(send("POST", "/v1/batches/" + id + "/cancel").status, 404);
  EXPECT_EQ(create(file).status, 400);
  EXPECT_EQ(send("GET", "/v1/files").json()["data"].size(), 0U);
  EXPECT_EQ(send("GET", "/v1/batches").json()["data"].size(), 0U);
  key_ = kSecret;
  EXPECT_EQ(content_of(output).size(), 3U);
}

TEST(BatchStoreTest, RemovesWhatAKillLeft) {
  const TempFolder folder;
  { const BatchStore store({.folder = folder.path()}); }
  for (const char* name : {"files/file-1", "files/file-2.part", "runs/batch_1"})
    folder.write(name, "x");
  const BatchStore store({.folder = folder.path()});
  EXPECT_TRUE(std::filesystem::is_empty(folder / "files"));
  EXPECT_TRUE(std::filesystem::is_empty(folder / "runs"));
}

TEST(BatchStoreTest, HasOneServer) {
  const TempFolder folder;
  const BatchStore first({.folder = folder.path()});
  EXPECT_THROW(BatchStore({.folder = folder.path()}), EnvironmentError);
}

TEST(BatchStoreTest, FilesHaveABound) {
  const TempFolder folder;
  BatchStore store({.folder = folder.path(), .max_bytes = 10});
  EXPECT_FALSE(store.full());
  const auto file = store.new_file("file-a");
  file->write("0123456789");
  file->keep({});
  EXPECT_TRUE(store.full());
  EXPECT_TRUE(store.remove_file("file-a"));
  EXPECT_FALSE(store.full());
}

TEST(BatchStoreTest, OpenBatchesHaveABound) {
  const TempFolder folder;
  BatchStore store({.folder = folder.path()});
  for (int64_t i = 0; i < kMaxOpenBatches; ++i) EXPECT_TRUE(store.add_batch({}));
  EXPECT_FALSE(store.add_batch({}));
  store.update_batch(store.next_batch()->id, [](StoredBatch& batch) { batch.ended_at = 1; });
  EXPECT_TRUE(store.add_batch({}));
}

TEST(HttpWithoutBatches, NamesTheOption) {
  TestServer server;
  TestClient client(server.port());
  for (const char* path : {"/v1/files", "/v1/batches", "/v1/files/a", "/v1/files/a/content"}) {
    const ClientResponse response = client.get(path);
    EXPECT_EQ(response.status, 404);
    EXPECT_THAT(response.body, HasSubstr("--batches FOLDER"));
  }
}

}  // namespace
}  // namespace trireme
