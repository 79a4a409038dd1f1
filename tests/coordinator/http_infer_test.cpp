// The Open Inference Protocol over a service that says "Once upon a time".

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "comm/control/build_id.h"
#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

constexpr const char* kPath = "/v2/models/fake/infer";

Json text_input(const Json& texts) {
  return {{"name", "text_input"},
          {"datatype", "BYTES"},
          {"shape", Json::array({texts.size()})},
          {"data", texts}};
}

Json id_input(const Json& shape, const Json& data, const char* datatype = "INT32") {
  return {{"name", "input_ids"}, {"datatype", datatype}, {"shape", shape}, {"data", data}};
}

// An input whose values are behind the JSON.
Json binary_input(const char* name, const char* datatype, const Json& shape, size_t n_bytes) {
  return {{"name", name},
          {"datatype", datatype},
          {"shape", shape},
          {"parameters", {{"binary_data_size", n_bytes}}}};
}

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string strings_of(const std::vector<std::string>& texts) {
  std::string bytes;
  for (const std::string& text : texts)
    bytes += bytes_of<uint32_t>({static_cast<uint32_t>(text.size())}) + text;
  return bytes;
}

std::string binary_post(const Json& json, const std::string& binary, const std::string& path) {
  const std::string head = json.dump();
  return "POST " + path +
         " HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: " + std::to_string(head.size()) +
         "\r\nContent-Length: " + std::to_string(head.size() + binary.size()) + "\r\n\r\n" + head +
         binary;
}

class HttpInfer : public testing::Test {
 protected:
  Json answer(const Json& body) {
    const ClientResponse response = client_.post(kPath, body);
    EXPECT_EQ(response.status, 200) << body << response.body;
    return response.json();
  }
  Json outputs(const Json& body) { return answer(body)["outputs"]; }
  ClientResponse post_binary(const Json& json, const std::string& binary,
                             const std::string& path = kPath) {
    EXPECT_TRUE(client_.send(binary_post(json, binary, path)));
    return client_.read_response();
  }
  static std::string message_of(const ClientResponse& response, int status = 400) {
    EXPECT_EQ(response.status, status) << response.body;
    const Json json = response.json();
    EXPECT_EQ(json.size(), 1U) << response.body;
    return json["error"].get<std::string>();
  }
  std::string refusal(const Json& body) { return message_of(client_.post(kPath, body)); }
  // Of a request with one input in binary.
  std::string binary_refusal(const char* datatype, const Json& shape, size_t n_bytes,
                             const std::string& binary) {
    return message_of(post_binary(
        {{"inputs", Json::array({binary_input("text_input", datatype, shape, n_bytes)})}}, binary));
  }

  TestServer server_;
  TestClient client_{server_.port()};
};

TEST_F(HttpInfer, ServerAndHealth) {
  const Json server = client_.get("/v2").json();
  EXPECT_EQ(server["name"], "trireme");
  EXPECT_EQ(server["version"], build_id());
  EXPECT_EQ(server["extensions"], Json::array({"binary_tensor_data", "parameters"}));
  EXPECT_EQ(client_.get("/v2/health/live").json(), Json({{"live", true}}));
  EXPECT_EQ(client_.get("/v2/health/ready").json(), Json({{"ready", true}}));
  EXPECT_EQ(client_.get("/v2/models/fake/ready").json(), Json({{"name", "fake"}, {"ready", true}}));
  EXPECT_EQ(client_.get("/v2/models/fake/versions/1/ready").status, 200);

  ServiceStatus lost;
  lost.problem = "rank 1 is gone";
  server_.service.set_status(lost);
  EXPECT_EQ(client_.get("/v2/health/live").status, 200);
  EXPECT_THAT(message_of(client_.get("/v2/health/ready"), 503), HasSubstr("rank 1 is gone"));
  EXPECT_THAT(message_of(client_.get("/v2/models/fake/ready"), 503), HasSubstr("rank 1"));
  lost.alive = false;
  server_.service.set_status(lost);
  EXPECT_THAT(message_of(client_.get("/v2/health/live"), 503), HasSubstr("no group"));
}

TEST_F(HttpInfer, Metadata) {
  const Json json = client_.get("/v2/models/fake").json();
  EXPECT_EQ(json["name"], "fake");
  EXPECT_EQ(json["versions"], Json::array({"1"}));
  EXPECT_EQ(json["inputs"][0],
            Json::parse(R"({"name":"text_input","datatype":"BYTES","shape":[-1]})"));
  EXPECT_EQ(json["inputs"][1]["name"], "input_ids");
  EXPECT_EQ(json["outputs"][0]["name"], "text_output");
  EXPECT_EQ(json["outputs"].size(), 4U);
  EXPECT_EQ(client_.get("/v2/models/fake/versions/1").json(), json);
}

TEST_F(HttpInfer, NamesWithSlashes) {
  ModelInfo model = fake_model();
  model.id = "org/name";
  TestServer server = TestServer::of(model);
  TestClient client(server.port());
  EXPECT_EQ(client.get("/v2/models/org/name").json()["name"], "org/name");
  EXPECT_EQ(client.get("/v2/models/org%2Fname/versions/1/ready").status, 200);
  const Json body = {{"inputs", Json::array({text_input({"x"})})}};
  EXPECT_EQ(client.post("/v2/models/org/name/infer", body).status, 200);
  EXPECT_EQ(client.post("/v2/models/org/name/versions/1/infer", body).status, 200);
}

TEST_F(HttpInfer, Text) {
  const Json json = answer({{"id", "a\"b"},
                            {"parameters", {{"max_tokens", 4}, {"temperature", 0.5}, {"seed", 7}}},
                            {"inputs", Json::array({text_input({"Tell"})})}});
  EXPECT_EQ(json, Json::parse(R"({"model_name":"fake","model_version":"1","id":"a\"b",
      "parameters":{"prompt_tokens":4,"completion_tokens":4},
      "outputs":[{"name":"text_output","datatype":"BYTES","shape":[1],"data":["Once"]}]})"));
  const GenerateRequest request = server_.service.requests().at(0);
  EXPECT_EQ(request.prompt_ids, (std::vector<int32_t>{'T', 'e', 'l', 'l'}));
  EXPECT_EQ(request.max_new_tokens, 4);
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.5F);
  EXPECT_EQ(request.sampling.seed, 7U);
}

TEST_F(HttpInfer, TextsChoicesAndStops) {
  Json input = text_input({"a", "b"});
  input["shape"] = {2, 1};
  input["data"] = {{"a"}, {"b"}};
  const Json body = {{"parameters", {{"max_tokens", 6}, {"n", 2}, {"stop", {"up", "e"}}}},
                     {"inputs", Json::array({input})},
                     {"outputs", {{{"name", "finish_reason"}}, {{"name", "text_output"}}}}};
  const Json told = outputs(body);
  EXPECT_EQ(told[0], Json::parse(R"({"name":"finish_reason","datatype":"BYTES","shape":[4,1],
                                     "data":["stop","stop","stop","stop"]})"));
  EXPECT_EQ(told[1], Json::parse(R"({"name":"text_output","datatype":"BYTES","shape":[4,1],
                                     "data":["Onc","nc","Onc","nc"]})"));
}

TEST_F(HttpInfer, Ids) {
  server_.service.set_script("abc");
  EXPECT_EQ(outputs({{"inputs", Json::array({id_input({2}, {72, 105})})}}), Json::parse(R"([
              {"name":"output_ids","datatype":"INT32","shape":[4],"data":[97,98,99,256]},
              {"name":"output_lengths","datatype":"INT32","shape":[1],"data":[4]}])"));
  EXPECT_EQ(server_.service.requests().at(0).prompt_ids, (std::vector<int32_t>{72, 105}));
  // Rows of different lengths in, rows of different lengths out.
  const Json lengths = {
      {"name", "input_lengths"}, {"datatype", "INT32"}, {"shape", {2, 1}}, {"data", {{3}, {1}}}};
  const Json told = outputs(
      {{"parameters", {{"n", 2}}},
       {"inputs", {id_input({2, 3}, {{1, 2, 3}, {4, 0, 0}}, "INT64"), lengths}},
       {"outputs",
        {{{"name", "output_ids"}}, {{"name", "output_lengths"}}, {{"name", "text_output"}}}}});
  EXPECT_EQ(server_.service.requests().at(1).prompt_ids, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(server_.service.requests().at(3).prompt_ids, (std::vector<int32_t>{4}));
  EXPECT_EQ(told[0], Json::parse(R"({"name":"output_ids","datatype":"INT64","shape":[4,4],
      "data":[97,98,99,256, 98,99,256,-1, 97,98,99,256, 98,99,256,-1]})"));
  EXPECT_EQ(told[1]["data"], Json({4, 3, 4, 3}));
  EXPECT_EQ(told[1]["shape"], Json({4, 1}));
  EXPECT_EQ(told[2]["data"], Json({"abc", "bc", "abc", "bc"}));
}

TEST_F(HttpInfer, BinaryInAndOut) {
  const std::string texts = strings_of({"für"});
  const ClientResponse response = post_binary(
      {{"parameters", {{"max_tokens", 2}, {"binary_data_output", true}, {"echo", true}}},
       {"inputs", {binary_input("text_input", "BYTES", {1}, texts.size())}},
       {"outputs",
        {{{"name", "text_output"}},
         {{"name", "output_lengths"}, {"parameters", {{"binary_data", false}}}},
         {{"name", "output_ids"}}}}},
      texts);
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.headers.at("content-type"), "application/octet-stream");
  const size_t n_json = std::stoul(response.headers.at("inference-header-content-length"));
  const Json json = Json::parse(response.body.substr(0, n_json));
  EXPECT_EQ(json["outputs"], Json::parse(R"([
      {"name":"text_output","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":10}},
      {"name":"output_lengths","datatype":"INT32","shape":[1],"data":[2]},
      {"name":"output_ids","datatype":"INT32","shape":[1,2],
       "parameters":{"binary_data_size":8}}])"));
  EXPECT_EQ(response.body.substr(n_json), strings_of({"fürOn"}) + bytes_of<int32_t>({'O', 'n'}));
  // On the same connection, a body without binary part is JSON again.
  EXPECT_EQ(outputs({{"inputs", Json::array({text_input({"x"})})}})[0]["shape"], Json::array({1}));
}

TEST_F(HttpInfer, ParametersAsInputs) {
  const std::string options = R"({"top_k": 5, "stop": " "})";
  const std::string binary = strings_of({"x"}) + bytes_of<int32_t>({9}) + bytes_of<float>({0.5F}) +
                             bytes_of<uint64_t>({77}) + strings_of({options}) + std::string(1, 0);
  const Json body = {
      {"inputs",
       {binary_input("text_input", "BYTES", {1, 1}, 5),
        binary_input("max_tokens", "INT32", {1, 1}, 4), binary_input("temperature", "FP32", {1}, 4),
        binary_input("seed", "UINT64", {1}, 8),
        binary_input("sampling_parameters", "BYTES", {1}, options.size() + 4),
        binary_input("exclude_input_in_output", "BOOL", {1}, 1)}}};
  const ClientResponse response = post_binary(body, binary);
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.json()["outputs"][0]["data"], Json::array({"xOnce"}));
  const GenerateRequest request = server_.service.requests().at(0);
  EXPECT_EQ(request.max_new_tokens, 9);
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.5F);
  EXPECT_EQ(request.sampling.seed, 77U);
  EXPECT_EQ(request.sampling.top_k, 5);
  Json twice = body;
  twice["parameters"] = {{"max_tokens", 3}};
  EXPECT_THAT(message_of(post_binary(twice, binary)), HasSubstr("\"max_tokens\" is given twice"));
}

TEST_F(HttpInfer, RefusesBadTensors) {
  const auto with = [](Json input) { return Json{{"inputs", Json::array({std::move(input)})}}; };
  const auto changed = [&](const char* field, const Json& value) {
    Json input = text_input({"x"});
    input[field] = value;
    return refusal(with(input));
  };
  EXPECT_THAT(refusal(Json::object()), HasSubstr("inputs is missing"));
  EXPECT_THAT(refusal({{"inputs", Json::array()}}), HasSubstr("list of 1 to 32"));
  EXPECT_THAT(refusal(with(5)), HasSubstr("inputs[0] must be an object, not 5"));
  EXPECT_THAT(changed("name", ""), HasSubstr("inputs[0].name"));
  EXPECT_THAT(changed("name", "attention_mask"), HasSubstr("no input \"attention_mask\""));
  EXPECT_THAT(changed("datatype", "FP16"), HasSubstr("not \"FP16\""));
  EXPECT_THAT(changed("datatype", "INT32"), HasSubstr("\"x\", which is no value of INT32"));
  EXPECT_THAT(changed("shape", {2}), HasSubstr("has 1 values, and its shape says 2"));
  EXPECT_THAT(changed("shape", Json::array()), HasSubstr("shape must be"));
  EXPECT_THAT(changed("shape", {0}), HasSubstr("each at least 1"));
  EXPECT_THAT(changed("shape", {-1}), HasSubstr("each at least 1"));
  EXPECT_THAT(changed("shape", {1 << 20, 1 << 20, 1 << 20, 1 << 20}), HasSubstr("1048576 values"));
  EXPECT_THAT(changed("shape", {1, 1, 1}), HasSubstr("text_input must have the shape"));
  EXPECT_THAT(changed("data", "x"), HasSubstr("data must be a list"));
  EXPECT_THAT(changed("parameters", {{"shared_memory_region", "r"}}),
              HasSubstr("\"shared_memory_region\", which is not supported"));
  EXPECT_THAT(changed("parameters", {{"binary_data_size", 4}}), HasSubstr("between 0 and 0"));
  EXPECT_THAT(refusal(with(id_input({1}, {2147483648}))), HasSubstr("no value of INT32"));
  EXPECT_THAT(refusal(with(id_input({1}, {1.5}))), HasSubstr("1.5, which is no value of INT32"));
  EXPECT_THAT(refusal(with(id_input({1}, {1}, "UINT32"))), HasSubstr("INT32 or INT64"));
  EXPECT_THAT(refusal(with(id_input({1}, {kFakeVocab}))), HasSubstr("257"));
  EXPECT_THAT(refusal({{"inputs", {text_input({"a"}), text_input({"b"})}}}), HasSubstr("twice"));
  EXPECT_THAT(refusal({{"inputs", {text_input({"a"}), id_input({1}, {1})}}}),
              HasSubstr("one of them"));
  EXPECT_THAT(refusal(with(text_input(std::vector<std::string>(129, "a")))), HasSubstr("128"));
  for (const Json& length : {Json(0), Json(4)}) {
    const Json lengths = {{"name", "input_lengths"},
                          {"datatype", "INT64"},
                          {"shape", {1}},
                          {"data", Json::array({length})}};
    EXPECT_THAT(refusal({{"inputs", {id_input({3}, {1, 2, 3}), lengths}}}),
                HasSubstr("between 1 and 3"));
  }
}

TEST_F(HttpInfer, RefusesBadBinary) {
  EXPECT_THAT(binary_refusal("BYTES", {1}, 5, strings_of({"ab"})), HasSubstr("end in number 0"));
  EXPECT_THAT(binary_refusal("BYTES", {2}, 5, strings_of({"a"})), HasSubstr("end in number 1"));
  EXPECT_THAT(binary_refusal("BYTES", {1}, 3, "abc"), HasSubstr("end in number 0"));
  EXPECT_THAT(binary_refusal("BYTES", {1}, 10, strings_of({"a", "b"})),
              HasSubstr("5 bytes are left"));
  EXPECT_THAT(binary_refusal("BYTES", {1}, 5, strings_of({"\xFF"})), HasSubstr("no UTF-8"));
  EXPECT_THAT(binary_refusal("BYTES", {1}, 6, strings_of({"a"})), HasSubstr("between 0 and 5"));
  EXPECT_THAT(binary_refusal("BYTES", {1}, 5, strings_of({"a"}) + "zz"),
              HasSubstr("2 bytes behind the JSON"));
  EXPECT_THAT(binary_refusal("INT32", {2}, 7, "abcdefg"), HasSubstr("2 values of INT32 are 8"));
  const std::string head = "POST " + std::string(kPath) + " HTTP/1.1\r\nHost: x\r\n";
  for (const char* length : {"3", "-1", "1x", "99999999999999999999"}) {
    ASSERT_TRUE(client_.send(head + "Inference-Header-Content-Length: " + length +
                             "\r\nContent-Length: 2\r\n\r\n{}"));
    EXPECT_THAT(message_of(client_.read_response()), HasSubstr("Inference-Header-Content-Length"))
        << length;
  }
}

TEST_F(HttpInfer, RefusesBadParametersAndOutputs) {
  const auto with = [this](const char* name, const Json& value) {
    return refusal({{"parameters", {{name, value}}}, {"inputs", {text_input({"x"})}}});
  };
  const auto wanting = [this](const Json& outputs) {
    return refusal({{"inputs", {text_input({"x"})}}, {"outputs", outputs}});
  };
  EXPECT_THAT(with("max_tokens", 1000), HasSubstr("between 0 and 256"));
  EXPECT_THAT(with("max_tokens", 256), HasSubstr("context length is 256"));
  EXPECT_THAT(with("temperature", "hot"), HasSubstr("temperature"));
  EXPECT_THAT(with("stream", true), HasSubstr("stream must be false"));
  EXPECT_THAT(with("logprobs", 1), HasSubstr("no outputs here"));
  EXPECT_THAT(with("prompt", "x"), HasSubstr("text_input or input_ids"));
  EXPECT_THAT(with("sequence_id", 5), HasSubstr("sequence_id is not supported"));
  EXPECT_THAT(with("binary_data_output", 1), HasSubstr("must be true or false"));
  EXPECT_THAT(wanting(5), HasSubstr("outputs must be a list"));
  EXPECT_THAT(wanting({{{"name", "logits"}}}), HasSubstr("no output \"logits\""));
  EXPECT_THAT(wanting({{{"name", "text_output"}}, {{"name", "text_output"}}}), HasSubstr("twice"));
  EXPECT_THAT(wanting({{{"name", "text_output"}, {"parameters", {{"classification", 3}}}}}),
              HasSubstr("\"classification\" = 3"));
  EXPECT_THAT(refusal({{"id", std::string(129, 'x')}, {"inputs", {text_input({"x"})}}}),
              HasSubstr("at most 128 bytes, not 129"));
}

TEST_F(HttpInfer, EveryRefusalHasItsForm) {
  const Json body = {{"inputs", {text_input({"x"})}}};
  EXPECT_THAT(message_of(client_.get("/v2/models/other"), 404), HasSubstr("\"other\" does not"));
  EXPECT_THAT(message_of(client_.get("/v2/models/other/ready"), 404), HasSubstr("other"));
  EXPECT_THAT(message_of(client_.post("/v2/models/other/infer", body), 404), HasSubstr("other"));
  EXPECT_THAT(message_of(client_.get(kPath), 404), HasSubstr("fake/infer"));
  EXPECT_THAT(message_of(client_.post("/v2/models/fake/ready", body), 405), HasSubstr("GET only"));
  EXPECT_THAT(message_of(client_.post(kPath, std::string("{"))), HasSubstr("not valid JSON"));
  server_.service.set_refusal(Error{"256 requests wait already", "queue"});
  const ClientResponse full = client_.post(kPath, body);
  EXPECT_EQ(message_of(full, 429), "256 requests wait already");
  EXPECT_TRUE(full.headers.contains("retry-after"));
  server_.service.set_refusal(std::nullopt);
  server_.service.set_mode(FakeService::Mode::kBreak);
  EXPECT_THAT(message_of(client_.post(kPath, body), 500), HasSubstr("the group fell over"));
  EXPECT_EQ(client_.post("/v2/rerank", Json::object()).json()["error"]["param"], "query");
}

TEST_F(HttpInfer, TooLongABody) {
  HttpLimits limits;
  limits.max_body_bytes = 10;
  TestServer server(limits);
  EXPECT_THAT(message_of(TestClient(server.port()).post(kPath, std::string(11, 'x')), 413),
              HasSubstr("10 bytes"));
}

TEST_F(HttpInfer, ClientThatGoesCancels) {
  server_.service.set_mode(FakeService::Mode::kSilent);
  TestClient client(server_.port());
  const Json body = {{"inputs", {text_input({"a", "b"})}}};
  ASSERT_TRUE(client.send(post_text(kPath, body.dump())));
  ASSERT_TRUE(server_.service.wait_for_requests(2));
  client.close();
  EXPECT_TRUE(server_.service.wait_for_cancels(2));
}

}  // namespace
}  // namespace trireme
