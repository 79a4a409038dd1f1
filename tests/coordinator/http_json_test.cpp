#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "coordinator/http/http_wire.h"
#include "coordinator/http/json_body.h"
#include "coordinator/http/json_fields.h"
#include "coordinator/http/router.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

std::string nested(int depth) {
  return "{\"a\":" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
}

TEST(HttpJson, DepthIsBounded) {
  EXPECT_TRUE(parse_json_body(nested(kMaxJsonDepth)).ok());
  const auto refused = parse_json_body(nested(kMaxJsonDepth + 1));
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("64"));
  // Brackets in strings do not count, escaped quotes do not end them.
  EXPECT_TRUE(parse_json_body(R"({"a":"\"[[[)" + std::string(1000, '[') + "\"}").ok());
  EXPECT_FALSE(parse_json_body("]]]]").ok());
}

TEST(HttpJson, ValuesAndMembersAreBounded) {
  std::string list = "{\"a\":[0";
  for (int64_t i = 0; i < kMaxJsonValues; ++i) list += ",0";
  const auto too_many = parse_json_body(list + "]}");
  ASSERT_FALSE(too_many.ok());
  EXPECT_THAT(too_many.error().message, HasSubstr("1000000 values"));
  const auto object = [](int64_t n_members) {
    std::string text = "{\"0\":[0,1]";
    for (int64_t i = 1; i < n_members; ++i) text += ",\"" + std::to_string(i) + "\":{}";
    return text + "}";
  };
  EXPECT_TRUE(parse_json_body(object(kMaxJsonMembers)).ok());
  EXPECT_FALSE(parse_json_body(object(kMaxJsonMembers + 1)).ok());
}

TEST(HttpJson, MembersKeepTheirOrder) {
  EXPECT_EQ(parse_json_body(R"({"z":1,"a":2})")->dump(), R"({"z":1,"a":2})");
}

TEST(HttpJson, ErrorMessagesAreBounded) {
  const auto refused = parse_json_body("{\"a\":\"" + std::string(100000, 'x'));
  ASSERT_FALSE(refused.ok());
  EXPECT_LT(refused.error().message.size(), 300U);
}

TEST(HttpJson, FieldsKeepTheFirstError) {
  const Json object = {{"a", 5}, {"b", "x"}, {"c", 16.0}, {"d", nullptr}};
  JsonFields fields(object, "outer.");
  EXPECT_EQ(fields.integer("a", 1, 0, 9), 5);
  EXPECT_EQ(fields.integer("c", 1, 0, 99), 16);
  EXPECT_EQ(fields.integer("d", 3, 0, 9), 3);
  EXPECT_FALSE(fields.error().has_value());
  EXPECT_EQ(fields.integer("a", 1, 6, 9), 1);
  EXPECT_EQ(fields.number("b", 2.0, 0, 9), 2.0);
  EXPECT_EQ(fields.error()->param, "outer.a");
  EXPECT_EQ(fields.error()->message, "outer.a must be an integer between 6 and 9, not 5");
}

TEST(HttpJson, TokenIds) {
  EXPECT_EQ(*parse_token_ids({0, 9}, "p", 10, 5), (std::vector<int32_t>{0, 9}));
  EXPECT_FALSE(parse_token_ids({10}, "p", 10, 5).ok());
  EXPECT_FALSE(parse_token_ids({true}, "p", 10, 5).ok());
  EXPECT_FALSE(parse_token_ids({UINT64_MAX}, "p", 10, 5).ok());
  EXPECT_FALSE(parse_token_ids({0, 0, 0}, "p", 10, 2).ok());
}

TEST(HttpWire, PercentDecode) {
  std::string out;
  EXPECT_TRUE(percent_decode("/a%2Fb%20c", &out));
  EXPECT_EQ(out, "/a/b c");
  for (const char* bad : {"%", "%1", "%zz", "%00"}) EXPECT_FALSE(percent_decode(bad, &out)) << bad;
}

TEST(HttpWire, Chunks) {
  EXPECT_EQ(format_chunk("0123456789abcdef"), "10\r\n0123456789abcdef\r\n");
  EXPECT_EQ(format_chunk(""), "");
}

TEST(HttpRouter, FindsRoutes) {
  const Router router({{"GET", "/a", HandlerCost::kQuick, nullptr},
                       {"POST", "/a", HandlerCost::kQuick, nullptr},
                       {"GET", "/m/*", HandlerCost::kQuick, nullptr}});
  EXPECT_EQ(router.find("POST", "/a").route->method, "POST");
  EXPECT_EQ(router.find("DELETE", "/a").status, 405);
  EXPECT_EQ(router.find("DELETE", "/a").allowed, "GET, POST");
  EXPECT_EQ(router.find("GET", "/m/x/y").path_tail, "x/y");
  EXPECT_EQ(router.find("GET", "/m/x/y").label, "/m/*");
  EXPECT_EQ(router.find("GET", "/m/").status, 404);
  EXPECT_EQ(router.find("GET", "/b").label, "other");
}

}  // namespace
}  // namespace trireme
