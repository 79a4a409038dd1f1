#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "coordinator/batch/batch_key.h"
#include "coordinator/batch/batch_line.h"
#include "coordinator/batch/batch_output.h"
#include "coordinator/batch/line_reader.h"
#include "kernels/result.h"
#include "tests/temp_folder.h"

namespace trireme {
namespace {

using testing::HasSubstr;

const BatchKey kKey("hash of an input", "salt");

std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::string answer_line(int64_t number, int status) {
  return batch_answer_line(kKey.name(kBatchLinePrefix, number), "\"a\"", status, "{}");
}

TEST(BatchKey, NamesFollowFromInputSaltAndLine) {
  const BatchKey same("hash of an input", "salt");
  const BatchKey salted("hash of an input", "other");
  const BatchKey other("hash of another", "salt");
  EXPECT_EQ(kKey.name("x-", 3), same.name("x-", 3));
  EXPECT_EQ(kKey.name("x-", 3).size(), 2U + 24U);
  for (const BatchKey& key : {salted, other}) EXPECT_NE(kKey.name("x-", 3), key.name("x-", 3));
  EXPECT_NE(kKey.name("x-", 3), kKey.name("x-", 4));
  EXPECT_NE(kKey.name("x-", 3).substr(2), kKey.name("y-", 3).substr(2));
}

TEST(BatchKey, SeedsFollowFromInputAndLineAlone) {
  EXPECT_EQ(kKey.seed(3), BatchKey("hash of an input", "other").seed(3));
  EXPECT_NE(kKey.seed(3), BatchKey("hash of another", "salt").seed(3));
  EXPECT_NE(kKey.seed(3), kKey.seed(4));
  for (int64_t line = 0; line < 100; ++line) EXPECT_GE(kKey.seed(line), 0);
}

TEST(Sha256, IsTheKnownOne) {
  const TempFolder folder;
  folder.write("abc", "abc");
  EXPECT_EQ(sha256_of_file(folder / "abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_THROW(sha256_of_file(folder / "none"), EnvironmentError);
}

TEST(LineReader, GivesLinesThatAreNotBlank) {
  const TempFolder folder;
  const std::string text = "one\r\n\n  \t\n" + std::string(700000, 'x') + "\nlast";
  folder.write("lines", text);
  LineReader reader(folder / "lines", 1000);
  LineReader::Line line;
  ASSERT_TRUE(reader.next(&line));
  EXPECT_EQ(line.text, "one\r");
  EXPECT_EQ(reader.offset(), 5U);
  ASSERT_TRUE(reader.next(&line));
  EXPECT_TRUE(line.too_long);
  EXPECT_EQ(line.text, std::string(1000, 'x'));
  EXPECT_EQ(reader.offset(), text.size() - 4);
  ASSERT_TRUE(reader.next(&line));
  EXPECT_FALSE(line.too_long);
  EXPECT_EQ(line.text, "last");
  EXPECT_EQ(reader.offset(), reader.size_bytes());
  EXPECT_FALSE(reader.next(&line));
}

TEST(LineReader, RefusesWhatIsNoFile) {
  const TempFolder folder;
  EXPECT_THROW(LineReader(folder / "none", 10), EnvironmentError);
  EXPECT_THROW(LineReader(folder.path(), 10), EnvironmentError);
}

TEST(BatchLine, IsReadAsItIs) {
  const BatchLine line =
      read_batch_line(R"({"custom_id":"a\"b","method":"POST","url":"/v1/completions",)"
                      R"("body":{"prompt":"x"},"more":1})",
                      "");
  EXPECT_EQ(line.custom_id, R"("a\"b")");
  const auto& call = std::get<BatchCall>(line.call);
  EXPECT_STREQ(call.kind->path, "/v1/completions");
  EXPECT_EQ(call.body.dump(), R"({"prompt":"x"})");
}

TEST(BatchLine, RefusalsNameTheField) {
  const std::string begin = R"({"custom_id":"a",)";
  const std::vector<std::tuple<std::string, std::string, std::string>> cases = {
      {"no JSON", "", "null"},
      {"[]", "", "null"},
      {R"({"custom_id":5})", "custom_id", "null"},
      {R"({"method":"POST"})", "custom_id", "null"},
      {R"({"custom_id":")" + std::string(513, 'x') + "\"}", "custom_id", "null"},
      {begin + R"("method":"GET","url":"/v1/completions","body":{}})", "method", "\"a\""},
      {begin + R"("method":"POST","url":"/v1/embeddings","body":{}})", "url", "\"a\""},
      {begin + R"("method":"POST","url":"/v1/completions","body":{}})", "url", "\"a\""},
      {begin + R"("method":"POST","url":"/v1/chat/completions"})", "body", "\"a\""},
      {begin + R"("method":"POST","url":"/v1/chat/completions","body":[]})", "body", "\"a\""},
      {begin + R"("method":"POST","url":"/v1/chat/completions","body":{"stream":true}})", "stream",
       "\"a\""},
  };
  for (const auto& [text, param, custom_id] : cases) {
    const BatchLine line = read_batch_line(text, "/v1/chat/completions");
    ASSERT_TRUE(std::holds_alternative<ApiError>(line.call)) << text;
    EXPECT_EQ(std::get<ApiError>(line.call).status, 400) << text;
    EXPECT_EQ(std::get<ApiError>(line.call).param, param) << text;
    EXPECT_EQ(line.custom_id, custom_id) << text;
  }
}

TEST(BatchLine, SuccessIsSeenWhateverTheCustomIdSays) {
  const nlohmann::json tricky = R"(,"response":{"status_code":200,)";
  EXPECT_TRUE(is_success_line(batch_answer_line("i", tricky.dump(), 200, "{}")));
  EXPECT_FALSE(is_success_line(batch_answer_line("i", tricky.dump(), 400, "{}")));
  EXPECT_FALSE(is_success_line(batch_failure_line("i", tricky.dump(), "batch_expired", "late")));
  const auto line =
      nlohmann::json::parse(batch_failure_line("i", tricky.dump(), "batch_expired", "late"));
  EXPECT_EQ(line["custom_id"], tricky);
  EXPECT_TRUE(line["response"].is_null());
  EXPECT_EQ(line["error"]["code"], "batch_expired");
}

TEST(BatchOutput, GoesOnBehindTheLastWholeLine) {
  const TempFolder folder;
  const std::filesystem::path path = folder / "out";
  const std::string whole = answer_line(0, 200) + answer_line(1, 400);
  BatchOutput(path, kKey).append(whole);
  const std::string next = answer_line(2, 200);
  for (size_t n_torn = 0; n_torn < next.size(); ++n_torn) {
    folder.write("out", whole + next.substr(0, n_torn));
    const BatchOutput output(path, kKey);
    EXPECT_EQ(output.n_lines(), 2);
    EXPECT_EQ(output.n_failed(), 1);
    EXPECT_EQ(contents(path), whole) << n_torn;
  }
}

TEST(BatchOutput, RefusesWhatIsNotItsOwn) {
  const TempFolder folder;
  for (const std::string& text :
       {std::string("a diary"), std::string("a diary\n"), answer_line(0, 200) + answer_line(2, 200),
        answer_line(1, 200), answer_line(0, 200) + "{\"id\":\"x"}) {
    folder.write("out", text);
    EXPECT_THROW(BatchOutput(folder / "out", kKey), EnvironmentError) << text;
    EXPECT_EQ(contents(folder / "out"), text);
  }
  folder.write("out", answer_line(0, 200));
  EXPECT_THROW(BatchOutput(folder / "out", BatchKey("hash of an input", "other")),
               EnvironmentError);
}

TEST(BatchOutput, HasOneWriter) {
  const TempFolder folder;
  const BatchOutput first(folder / "out", kKey);
  EXPECT_THROW(BatchOutput(folder / "out", kKey), EnvironmentError);
}

}  // namespace
}  // namespace trireme
