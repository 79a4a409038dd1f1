#include "coordinator/http/multipart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/http/query.h"

namespace trireme {
namespace {

using testing::HasSubstr;

struct Read {
  std::string events;  // "name/filename:data;" for each part
  std::string error;
  bool done = false;
};

Read read(const std::string& bytes, size_t piece) {
  Read out;
  MultipartParser parser("B", {.on_part =
                                   [&](const FormPart& part) {
                                     out.events +=
                                         part.name + "/" + part.filename.value_or("-") + ":";
                                     return std::optional<Error>();
                                   },
                               .on_data =
                                   [&](std::string_view data) {
                                     out.events += data;
                                     return std::optional<Error>();
                                   },
                               .on_part_end =
                                   [&] {
                                     out.events += ";";
                                     return std::optional<Error>();
                                   }});
  for (size_t i = 0; i < bytes.size() && out.error.empty(); i += piece) {
    if (const auto error = parser.feed(std::string_view(bytes).substr(i, piece)))
      out.error = error->message;
  }
  out.done = parser.is_done();
  return out;
}

std::string part(const std::string& disposition, const std::string& data) {
  return "--B\r\nContent-Disposition: " + disposition + "\r\n\r\n" + data + "\r\n";
}

TEST(Multipart, IsTheSameHoweverItIsCut) {
  const std::string body = part("form-data; name=\"purpose\"", "batch") +
                           "--B\r\ncontent-type: text/plain\r\nCONTENT-DISPOSITION: form-data; "
                           "filename=\"a \\\"b\\\".x\"; "
                           "name=file\r\n\r\none\r\n--\r\n-B\r\n--A\r\n\r\n--B--\r\n";
  for (size_t piece = 1; piece <= body.size(); ++piece) {
    const Read got = read(body, piece);
    EXPECT_EQ(got.error, "") << piece;
    EXPECT_EQ(got.events, "purpose/-:batch;file/a \"b\".x:one\r\n--\r\n-B\r\n--A\r\n;") << piece;
    EXPECT_TRUE(got.done) << piece;
  }
}

TEST(Multipart, RefusesWhatIsMalformed) {
  const std::string good = part("form-data; name=\"a\"", "x");
  for (const std::string& bytes : {
           std::string("x--B\r\n"),
           std::string("\r\n--B\r\n"),
           std::string("--B x\r\n"),
           good + "--Bx\r\n",
           good + "--B--\r\nx",
           good + "--B--x",
           std::string("--B\r\n\r\n\r\n"),
           std::string("--B\r\nContent-Type: text/plain\r\n\r\nx\r\n--B--"),
           std::string("--B\r\n: x\r\n\r\n"),
           std::string("--B\r\nno colon\r\n\r\n"),
           std::string("--B\r\nContent-Disposition: form-data; name=\"a\r\n\r\n"),
           part("form-data", "x"),
           part("attachment; name=\"a\"", "x"),
           part("form-data; name=\"a\"; name=\"b\"", "x"),
           part("form-data; name=\"a\x01\"", "x"),
           part("form-data; name=\"a\" b", "x"),
           "--B\r\nX: " + std::string(kMaxPartHeadBytes, 'x') + "\r\n\r\n",
           "--B\r\nX: " + std::string(kMaxPartHeadBytes + 100, 'x'),
       }) {
    for (const size_t piece : {size_t{1}, size_t{7}, bytes.size()})
      EXPECT_THAT(read(bytes, piece).error, HasSubstr("malformed")) << bytes << " by " << piece;
  }
  std::string many;
  for (int i = 0; i <= kMaxParts; ++i) many += good;
  EXPECT_THAT(read(many, many.size()).error, HasSubstr("more than 16 parts"));
}

TEST(Multipart, IsNotDoneWithoutItsEnd) {
  const std::string body = part("form-data; name=\"a\"", "x") + "--B--";
  EXPECT_TRUE(read(body, 3).done);
  EXPECT_FALSE(read(body.substr(0, body.size() - 1), 3).done);
  EXPECT_EQ(read(body.substr(0, body.size() - 1), 3).error, "");
}

TEST(Multipart, BoundaryOfAContentType) {
  EXPECT_EQ(*multipart_boundary("multipart/form-data; boundary=abc"), "abc");
  EXPECT_EQ(*multipart_boundary("Multipart/Form-Data;charset=x; Boundary=\"a b:c\""), "a b:c");
  for (const std::string& type :
       {std::string(), std::string("application/json"), std::string("multipart/form-data"),
        std::string("multipart/form-data; boundary="),
        std::string("multipart/form-data; boundary=\"a \""),
        std::string("multipart/form-data; boundary=\"a;b\""),
        std::string("multipart/mixed; boundary=abc"),
        "multipart/form-data; boundary=" + std::string(71, 'x')}) {
    EXPECT_FALSE(multipart_boundary(type)) << type;
  }
}

TEST(Query, FindsAndDecodes) {
  EXPECT_EQ(**query_value("a=1&b=x%20y+z&c", "b"), "x y z");
  EXPECT_EQ(**query_value("a=1&b=x&c", "c"), "");
  EXPECT_FALSE(query_value("a=1", "b")->has_value());
  EXPECT_FALSE(query_value("", "b")->has_value());
  EXPECT_FALSE(query_value("b=1&b=2", "b"));
  EXPECT_FALSE(query_value("b=%zz", "b"));
  EXPECT_EQ(*query_integer("n=5", "n", 1, 1, 5), 5);
  EXPECT_EQ(*query_integer("", "n", 3, 1, 5), 3);
  for (const char* query : {"n=6", "n=0", "n=", "n=x", "n=5x", "n=99999999999999999999"})
    EXPECT_FALSE(query_integer(query, "n", 3, 1, 5)) << query;
}

}  // namespace
}  // namespace trireme
