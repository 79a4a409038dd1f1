#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "comm/control/build_id.h"
#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;
using testing::Not;

class HttpStatus : public testing::Test {
 protected:
  TestServer server_;
  TestClient client_{server_.port()};
};

TEST_F(HttpStatus, Models) {
  const Json list = client_.get("/v1/models").json();
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 1U);
  const Json model = client_.get("/v1/models/fake").json();
  EXPECT_EQ(model, list["data"][0]);
  EXPECT_EQ(model["id"], "fake");
  EXPECT_EQ(model["object"], "model");
  EXPECT_EQ(model["created"], 7);
  EXPECT_EQ(model["max_model_len"], 256);
  const ClientResponse missing = client_.get("/v1/models/org%2Fother");
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(missing.json()["error"]["code"], "model_not_found");
  EXPECT_THAT(missing.body, HasSubstr("org/other"));
}

TEST_F(HttpStatus, HealthAndReady) {
  EXPECT_EQ(client_.get("/health").status, 200);
  EXPECT_EQ(client_.get("/ready").status, 200);
  EXPECT_EQ(client_.get("/ping").status, 200);

  ServiceStatus lost;
  lost.problem = "rank 1 is gone";
  server_.service.set_status(lost);
  EXPECT_EQ(client_.get("/health").status, 200);  // a relaunch is under way
  const ClientResponse not_ready = client_.get("/ready");
  EXPECT_EQ(not_ready.status, 503);
  EXPECT_THAT(not_ready.body, HasSubstr("rank 1 is gone"));

  lost.alive = false;
  server_.service.set_status(lost);
  EXPECT_EQ(client_.get("/health").status, 503);
  EXPECT_EQ(client_.get("/ping").status, 200);
}

TEST_F(HttpStatus, ReadySaysWhenDraining) {
  server_.server.begin_drain();
  EXPECT_EQ(client_.get("/ready").status, 503);
  EXPECT_EQ(client_.get("/health").status, 200);
}

TEST_F(HttpStatus, NotReadyUntilAGroupHasServed) {
  ServiceStatus loading;
  loading.problem = "loading";
  server_.service.set_status(loading);
  const Json body = {{"prompt", "x"}, {"max_tokens", 1}};
  const ClientResponse early = client_.post("/v1/completions", body);
  EXPECT_EQ(early.status, 503);
  EXPECT_TRUE(early.headers.contains("retry-after"));
  ServiceStatus ready;
  ready.ready = true;
  server_.service.set_status(ready);
  EXPECT_EQ(client_.get("/ready").status, 200);
  server_.service.set_status(loading);  // lost: requests wait for the relaunch
  EXPECT_EQ(client_.post("/v1/completions", body).status, 200);
}

TEST_F(HttpStatus, SleepAndWakeUp) {
  const Json asleep = {{"is_sleeping", true}};
  const Json awake = {{"is_sleeping", false}};
  const Json body = {{"prompt", "x"}, {"max_tokens", 1}};
  EXPECT_EQ(client_.get("/is_sleeping").json(), awake);
  EXPECT_EQ(client_.post("/sleep?level=1&mode=keep", Json::object()).json(), asleep);
  EXPECT_EQ(server_.service.sleep_mode(), SleepMode::kKeep);
  EXPECT_EQ(client_.get("/is_sleeping").json(), asleep);
  EXPECT_EQ(client_.get("/health").status, 200);
  const ClientResponse not_ready = client_.get("/ready");
  EXPECT_EQ(not_ready.status, 503);
  EXPECT_THAT(not_ready.body, HasSubstr("the server sleeps"));
  const ClientResponse refused = client_.post("/v1/completions", body);
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.json()["error"]["code"], "sleeping");
  EXPECT_TRUE(refused.headers.contains("retry-after"));
  EXPECT_THAT(client_.get("/metrics").body,
              HasSubstr("trireme_sleep_state{engine=\"0\",model_name=\"fake\"} 1\n"));
  EXPECT_EQ(client_.post("/wake_up?tags=weights&tags=kv_cache", Json::object()).json(), awake);
  EXPECT_EQ(client_.post("/v1/completions", body).status, 200);
}

// New work is let in while the ranks are being started, and waits for them.
TEST_F(HttpStatus, SleepIsOverWhenItWakesUp) {
  ServiceStatus status;
  status.sleep = SleepPhase::kSettling;
  status.problem = "it is going to sleep";
  server_.service.set_status(status);
  const Json body = {{"prompt", "x"}, {"max_tokens", 1}};
  EXPECT_EQ(client_.post("/v1/completions", body).status, 503);
  EXPECT_EQ(client_.get("/is_sleeping").json()["is_sleeping"], false);
  status.ready = true;
  status.sleep = SleepPhase::kAwake;
  server_.service.set_status(status);
  EXPECT_EQ(client_.get("/ready").status, 200);
  status.ready = false;
  status.sleep = SleepPhase::kWaking;
  server_.service.set_status(status);
  EXPECT_EQ(client_.get("/is_sleeping").json()["is_sleeping"], true);
  EXPECT_EQ(client_.post("/v1/completions", body).status, 200);
}

TEST_F(HttpStatus, SleepRefuses) {
  EXPECT_EQ(client_.post("/sleep?level=0", Json::object()).status, 400);
  EXPECT_EQ(client_.post("/sleep?level=3", Json::object()).json()["error"]["param"], "level");
  EXPECT_EQ(client_.post("/sleep?mode=deep", Json::object()).json()["error"]["param"], "mode");
  EXPECT_EQ(client_.get("/sleep").status, 405);
  server_.service.set_sleep_failure("requests still run");
  const ClientResponse refused = client_.post("/sleep", Json::object());
  EXPECT_EQ(refused.status, 409);
  EXPECT_EQ(refused.json()["error"]["message"], "requests still run");
  EXPECT_EQ(server_.service.sleep_mode(), SleepMode::kAbort);
}

TEST_F(HttpStatus, VersionAndLoad) {
  EXPECT_EQ(client_.get("/version").json()["version"], build_id());
  EXPECT_EQ(client_.get("/load").json()["server_load"], 0);
}

TEST_F(HttpStatus, TokenizeAndDetokenize) {
  const Json ids = client_.post("/tokenize", Json({{"prompt", "Hi"}})).json();
  EXPECT_EQ(ids["tokens"], Json({72, 105}));
  EXPECT_EQ(ids["count"], 2);
  EXPECT_EQ(ids["max_model_len"], 256);
  const Json texts =
      client_.post("/tokenize", Json({{"prompt", "Hi"}, {"return_token_strs", true}})).json();
  EXPECT_EQ(texts["token_strs"], Json({"H", "i"}));
  const Json chat = {{"messages", Json::array({{{"role", "u"}, {"content", "x"}}})}};
  EXPECT_EQ(client_.post("/tokenize", chat).json()["count"], 15);
  EXPECT_EQ(client_.post("/detokenize", Json({{"tokens", {72, 105}}})).json()["prompt"], "Hi");
  EXPECT_EQ(client_.post("/detokenize", Json({{"tokens", {-1}}})).status, 400);
  EXPECT_EQ(client_.post("/detokenize", Json::object()).status, 400);
  EXPECT_EQ(client_.post("/tokenize", Json::object()).status, 400);
}

TEST_F(HttpStatus, UnknownPathAndMethod) {
  const ClientResponse unknown = client_.get("/v2/none");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_THAT(unknown.json()["error"]["message"].get<std::string>(), HasSubstr("/v2/none"));
  const ClientResponse method = client_.get("/v1/completions");
  EXPECT_EQ(method.status, 405);
  EXPECT_EQ(method.headers.at("allow"), "POST");
  EXPECT_EQ(method.json()["error"]["code"], "method_not_allowed");
}

TEST_F(HttpStatus, Metrics) {
  client_.get("/v2/none");
  client_.get("/v3/none");
  ServiceStatus status;
  status.ready = true;
  status.n_waiting = 3;
  status.kv_usage = 0.5;
  status.n_kv_blocks = 64;
  status.n_running_kv_blocks = 32;
  status.n_free_kv_blocks = 20;
  server_.service.set_status(status);
  const ServingObserver observer = server_.metrics.observer();
  observer.on_queue_time(0.2);
  observer.on_prefill_time(0.2);
  observer.on_first_token(0.03);
  observer.on_inter_token(0.02);
  observer.on_decode_time(0.02);
  observer.on_finished(0.4, 5, 2, FinishReason::kLength);
  observer.on_iteration(7);
  observer.on_step(StepPhase::kMixed, 0.25);
  observer.on_preemption();
  observer.on_prefix_cache({.n_queried = 40, .n_hit = 32, .n_cached_prompt = 16});
  observer.on_group_lost("socket");
  observer.on_replayed(2);
  server_.metrics.set_ranks_alive(4);
  server_.metrics.set_load_progress(1.0);
  server_.metrics.set_stage_busy(1, 2.5);
  server_.metrics.set_stage_busy(1, 4.0);
  server_.metrics.set_stage_busy(1, 1.0);  // relaunched: counts from 0 again
  server_.metrics.set_comm(0.5);
  server_.metrics.set_kv_fragmentation(1, 0.125);
  server_.metrics.set_memory({{.replica = 0, .rank = 7, .weight_bytes = 9}});
  server_.metrics.set_memory(
      {{.replica = 0, .rank = 1, .weight_bytes = 3, .kv_bytes = 4, .workspace_bytes = 5}});
  server_.metrics.set_bubble_ratio(0.25);
  server_.server.begin_drain();
  const ClientResponse response = client_.get("/metrics");
  EXPECT_EQ(response.headers.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  const std::string labels = R"({engine="0",model_name="fake"} )";
  for (const std::string& line :
       std::vector<std::string>{"vllm:num_requests_running" + labels + "0",
                                "vllm:num_requests_waiting" + labels + "3",
                                "vllm:kv_cache_usage_perc" + labels + "0.5",
                                "vllm:prefix_cache_queries_total" + labels + "40",
                                "vllm:prefix_cache_hits_total" + labels + "32",
                                "vllm:prompt_tokens_cached_total" + labels + "16",
                                "vllm:prompt_tokens_total" + labels + "5",
                                "vllm:generation_tokens_total" + labels + "2",
                                "vllm:num_preemptions_total" + labels + "1",
                                "vllm:request_queue_time_seconds_count" + labels + "1",
                                "vllm:request_prefill_time_seconds_count" + labels + "1",
                                "vllm:request_decode_time_seconds_count" + labels + "1",
                                "vllm:request_time_per_output_token_seconds_sum" + labels + "0.02",
                                "vllm:e2e_request_latency_seconds_count" + labels + "1",
                                "vllm:time_to_first_token_seconds_count" + labels + "1",
                                "vllm:inter_token_latency_seconds_count" + labels + "1",
                                "vllm:iteration_tokens_total_count" + labels + "1",
                                "vllm:request_prompt_tokens_sum" + labels + "5",
                                "vllm:request_generation_tokens_sum" + labels + "2",
                                "trireme_ranks_alive" + labels + "4",
                                "trireme_replayed_requests_total" + labels + "2",
                                "trireme_comm_seconds_total" + labels + "0.5",
                                "trireme_pipeline_bubble_ratio" + labels + "0.25",
                                "trireme_model_load_progress" + labels + "1",
                                "trireme_drain_state" + labels + "1"}) {
    EXPECT_THAT(response.body, HasSubstr(line + "\n"));
  }
  for (const char* part :
       {R"(finished_reason="length",model_name="fake"} 1)",
        R"(block_size="16",engine="0",model_name="fake",num_gpu_blocks="64"} 1)",
        R"(trireme_step_seconds_sum{engine="0",model_name="fake",phase="mixed"} 0.25)",
        R"(trireme_step_seconds_count{engine="0",model_name="fake",phase="decode"} 0)",
        R"(trireme_kv_blocks{engine="0",model_name="fake",use="running"} 32)",
        R"(trireme_kv_blocks{engine="0",model_name="fake",use="cached"} 12)",
        R"(trireme_kv_blocks{engine="0",model_name="fake",use="free"} 20)",
        R"(cause="socket",engine="0",model_name="fake"} 1)", R"(stage="1"} 5)",
        R"(trireme_kv_fragmentation_ratio{engine="0",model_name="fake",replica="1"} 0.125)",
        R"(model_name="fake",rank="1",replica="0",use="weights"} 3)",
        R"(model_name="fake",rank="1",replica="0",use="kv"} 4)",
        R"(model_name="fake",rank="1",replica="0",use="workspace"} 5)",
        R"(vllm:time_to_first_token_seconds_bucket{engine="0",model_name="fake",le="0.04"} 1)",
        R"(trireme_http_requests_total{code="404",path="other"} 2)",
        R"(trireme_build_info{version="test"} 1)"}) {
    EXPECT_THAT(response.body, HasSubstr(part));
  }
  EXPECT_THAT(response.body, Not(HasSubstr("rank=\"7\"")));
}

}  // namespace
}  // namespace trireme
