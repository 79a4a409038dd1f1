#include "coordinator/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/text_test_data.h"

namespace trireme {
namespace {

using test::Json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

using Ids = std::vector<int32_t>;

TEST(TextTokenizer, GivesWhatTransformersGives) {
  const Json models = test::text_cases();
  for (const auto& [model, cases] : models.items()) {
    const Tokenizer tokenizer = Tokenizer::load(test::source_path(cases["folder"]));
    EXPECT_EQ(tokenizer.vocab_size(), cases["vocab_size"]) << model;
    for (const Json& expected : cases["encodings"]) {
      const std::string text = expected["text"];
      SCOPED_TRACE(model + ": " + text);
      EXPECT_EQ(*tokenizer.encode(text, false), expected["ids"].get<Ids>());
      EXPECT_EQ(*tokenizer.encode(text, true), expected["ids_with_special"].get<Ids>());
      EXPECT_EQ(*tokenizer.encode_as_text(text, false), expected["ids_as_text"].get<Ids>());
      const Ids ids = expected["ids"];
      EXPECT_EQ(tokenizer.decode(ids, false), expected["decoded"]);
      EXPECT_EQ(tokenizer.decode(ids, true), expected["decoded_skip"]);
    }
  }
}

TEST(TextTokenizer, KnowsItsSpecialTokens) {
  const Json models = test::text_cases();
  for (const auto& [model, cases] : models.items()) {
    SCOPED_TRACE(model);
    const Tokenizer tokenizer = Tokenizer::load(test::source_path(cases["folder"]));
    const Json& bos = cases["bos_token_id"];
    EXPECT_EQ(tokenizer.bos_token_id(),
              bos.is_null() ? std::nullopt : std::optional<int32_t>(bos.get<int32_t>()));
    EXPECT_EQ(tokenizer.eos_token_id(), cases["eos_token_id"].get<int32_t>());
  }
  const Tokenizer demo = Tokenizer::load(test::source_path("demo/model"));
  EXPECT_EQ(demo.token_id("<|end|>"), 3);
  EXPECT_EQ(demo.token_id("no such token"), std::nullopt);
}

TEST(TextTokenizer, PassesOverIdsThatAreNoToken) {
  const Tokenizer demo = Tokenizer::load(test::source_path("demo/model"));
  const Ids ids = *demo.encode("a tale", false);
  Ids with_strangers = {-1, 1 << 30};
  with_strangers.insert(with_strangers.end(), ids.begin(), ids.end());
  EXPECT_EQ(demo.decode(with_strangers, false), "a tale");
  EXPECT_EQ(demo.decode({}, false), "");
}

TEST(TextTokenizer, RefusesTextThatIsNoUtf8OrTooLong) {
  const Tokenizer demo = Tokenizer::load(test::source_path("demo/model"));
  const auto broken = demo.encode("a\xC3", false);
  ASSERT_FALSE(broken.ok());
  EXPECT_THAT(broken.error().message, HasSubstr("UTF-8"));
  EXPECT_FALSE(demo.encode(std::string(size_t{33} << 20, 'a'), false).ok());
}

TEST(TextTokenizer, NamesTheFileAndTheMendWhenItCannotLoad) {
  const TempFolder folder;
  const auto load = [&] { (void)Tokenizer::load(folder.path()); };
  const std::string name = (folder.path() / "tokenizer.json").string();
  EXPECT_THAT(test::environment_error(load), AllOf(HasSubstr(name), HasSubstr("no such file")));
  for (const char* content :
       {"", "{\"version\": \"1.0\", \"model\"", "[]", "{}",
        R"({"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}})"}) {
    folder.write("tokenizer.json", content);
    EXPECT_THAT(test::environment_error(load),
                AllOf(HasSubstr(name), HasSubstr("not a usable tokenizer"), HasSubstr("fetch"),
                      Not(HasSubstr("\n"))))
        << content;
  }
}

TEST(TextTokenizer, NamesABrokenTokenizerConfig) {
  const TempFolder folder;
  test::copy_demo_tokenizer(folder);
  const auto load = [&] { (void)Tokenizer::load(folder.path()); };
  EXPECT_EQ(test::environment_error(load), "");
  folder.write("tokenizer_config.json", "{\"bos_token\": ");
  EXPECT_THAT(test::environment_error(load), HasSubstr("tokenizer_config.json: not a JSON object"));
}

TEST(TextTokenizer, SettingsOfTokenizerJsonNeverCutOrPadPrompts) {
  const TempFolder folder;
  std::ifstream file(test::source_path("demo/model/tokenizer.json"));
  Json json = Json::parse(file);
  json["truncation"] = {
      {"direction", "Right"}, {"max_length", 4}, {"strategy", "LongestFirst"}, {"stride", 0}};
  folder.write("tokenizer.json", json.dump());
  const Tokenizer cutting = Tokenizer::load(folder.path());
  const Tokenizer demo = Tokenizer::load(test::source_path("demo/model"));
  const std::string text = "once upon a time there was a fox who would not be cut";
  EXPECT_EQ(*cutting.encode(text, true), *demo.encode(text, true));
}

}  // namespace
}  // namespace trireme
