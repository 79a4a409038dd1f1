#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <regex>
#include <set>

#include "coordinator/http/endpoints.h"
#include "coordinator/http/openapi.h"
#include "tests/coordinator/http_fakes.h"
#include "tests/coordinator/http_test_client.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

TEST(OpenApi, DescribesEveryRouteAndNoOther) {
  const TempFolder folder;
  FakeService service;
  ByteCodec codec;
  Metrics metrics({.model_name = "m", .version = "v"});
  Journal journal({.path = folder / "journal"});  // with it, every route there can be
  const auto keeper = std::make_shared<AnswerKeeper>(journal, AnswerKeeper::Options{});
  const auto context = std::make_shared<ApiContext>(service, codec, metrics, ModelInfo{.id = "m"},
                                                    std::make_shared<TaskPool>(1), keeper);
  context->sleep_mode = true;
  std::multiset<std::string> served;
  for (const Route& route : all_routes(context)) served.insert(route.method + " " + route.path);
  std::multiset<std::string> described;
  const YAML::Node paths = YAML::Load(std::string(openapi_yaml()))["paths"];
  for (const auto& path : paths) {
    const std::string pattern =
        std::regex_replace(path.first.as<std::string>(), std::regex("\\{\\w+\\}"), "*");
    for (const auto& operation : path.second) {
      std::string method = operation.first.as<std::string>();
      std::transform(method.begin(), method.end(), method.begin(), ::toupper);
      described.insert(method + " " + pattern);
    }
  }
  EXPECT_THAT(described, testing::ContainerEq(served));
  keeper->stop();
}

TEST(OpenApi, IsServed) {
  TestServer server;
  const ClientResponse response = TestClient(server.port()).get("/openapi.yaml");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, openapi_yaml());
  EXPECT_EQ(response.headers.at("content-type"), "application/yaml");
}

}  // namespace
}  // namespace trireme
