#include "coordinator/text/guide.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/text_test_data.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

constexpr int kPaddedVocabSize = 4112;  // 16 more than the demo's tokenizer has
constexpr int32_t kEndTokens[] = {3, 0};

class TextGuide : public ::testing::Test {
 protected:
  Guide make(std::string_view tag, std::string_view grammar) {
    Result<Guide> guide = factory_->make(tag, grammar);
    EXPECT_TRUE(guide.ok()) << (guide.ok() ? "" : guide.error().message);
    return *std::move(guide);
  }

  static std::vector<int32_t> allowed(Guide& guide) {
    std::vector<uint32_t> words((kPaddedVocabSize + 31) / 32);
    EXPECT_TRUE(guide.mask(words).ok());
    std::vector<int32_t> ids;
    for (int32_t id = 0; id < kPaddedVocabSize; ++id) {
      if (words[static_cast<size_t>(id) / 32] >> (id % 32) & 1) {
        ids.push_back(id);
      }
    }
    return ids;
  }

  Tokenizer tokenizer_ = Tokenizer::load(test::source_path("demo/model"));
  Result<GuideFactory> factory_ = GuideFactory::create(tokenizer_, kPaddedVocabSize, kEndTokens);
};

TEST_F(TextGuide, LowestAllowedTokensMakeValidJson) {
  Guide guide = make("json_schema",
                     R"({"type": "object", "properties": {"name": {"enum": ["fox", "hen"]},
                         "legs": {"type": "integer", "minimum": 2, "maximum": 4}},
                         "required": ["name", "legs"], "additionalProperties": false})");
  std::vector<int32_t> ids;
  for (bool ended = false; !ended && ids.size() < 200;) {
    const std::vector<int32_t> next = allowed(guide);
    ASSERT_FALSE(next.empty());
    EXPECT_LT(next.back(), 4096) << "padding is never allowed";
    ids.push_back(next.front());
    const Result<bool> pushed = guide.push(ids.back());
    ASSERT_TRUE(pushed.ok()) << pushed.error().message;
    ended = *pushed;
  }
  const test::Json json = test::Json::parse(tokenizer_.decode(ids, true));
  EXPECT_TRUE(json["name"] == "fox" || json["name"] == "hen");
  EXPECT_GE(json["legs"], 2);
  EXPECT_LE(json["legs"], 4);
}

// What a lost group costs: the guide is made again and taken through the tokens that were given,
// which may end inside a string, an escape or a character of several tokens.
TEST_F(TextGuide, GoesOnTheSameFromATokenLog) {
  constexpr std::string_view kGrammar =
      R"({"type": "object", "properties": {"name": {"type": "string"}, "of": {"type": "array",
          "items": {"enum": ["K\u00f6nig", "\u20ac", 17]}, "minItems": 2}},
          "required": ["name", "of"], "additionalProperties": false})";
  const std::vector<int32_t> log =
      *tokenizer_.encode("{\"name\": \"a\\\"b ü€\", \"of\": [\"König\", 17, \"€\"]}", false);
  std::vector<std::vector<int32_t>> masks;
  Guide undisturbed = make("json_schema", kGrammar);
  for (const int32_t id : log) {
    masks.push_back(allowed(undisturbed));
    ASSERT_TRUE(undisturbed.push(id).ok());
  }
  EXPECT_EQ(allowed(undisturbed), (std::vector<int32_t>{0, 3})) << "all of it was a whole object";
  int n_inside_a_character = 0;
  for (size_t lost_at = 0; lost_at < log.size(); ++lost_at) {
    Guide again = make("json_schema", kGrammar);
    for (size_t i = 0; i < lost_at; ++i) ASSERT_TRUE(again.push(log[i]).ok());
    EXPECT_EQ(allowed(again), masks[lost_at]) << "lost after " << lost_at << " tokens";
    EXPECT_TRUE(again.push(log[lost_at]).ok());
    const std::vector<int32_t> so_far(log.begin(), log.begin() + static_cast<long>(lost_at));
    n_inside_a_character += tokenizer_.decode(so_far, true).ends_with("\xEF\xBF\xBD") ? 1 : 0;
  }
  EXPECT_GE(n_inside_a_character, 5);
}

TEST_F(TextGuide, TakesEndTokensButNothingElseAfterTheEnd) {
  Guide guide = make("regex", "yes");
  bool ended = false;
  const std::vector<int32_t> ids = *tokenizer_.encode("yes", false);
  for (const int32_t id : ids) {
    ended = *guide.push(id);
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(allowed(guide), (std::vector<int32_t>{0, 3}));
  EXPECT_TRUE(*guide.push(3));
  EXPECT_TRUE(*guide.push(0));
  EXPECT_FALSE(guide.push(ids[0]).ok());
}

TEST_F(TextGuide, RefusesATokenOutsideTheMask) {
  Guide guide = make("regex", "yes");
  EXPECT_FALSE(guide.push(tokenizer_.encode("no", false)->front()).ok());
  std::vector<uint32_t> words(1);
  EXPECT_FALSE(guide.mask(words).ok());
}

TEST_F(TextGuide, RefusesBadAndHugeGrammars) {
  for (const auto& [tag, grammar] : std::vector<std::pair<std::string, std::string>>{
           {"regex", "(("},
           {"json_schema", "{\"type\": "},
           {"json_schema", R"({"type": "no such type"})"},
           {"lark", "start: nothing_of_the_kind"},
           {"no_such_tag", ""},
           {"regex", std::string(size_t{2} << 20, 'a')}}) {
    const Result<Guide> guide = factory_->make(tag, grammar);
    ASSERT_FALSE(guide.ok()) << tag << " " << grammar.substr(0, 60);
    EXPECT_THAT(guide.error().message, HasSubstr("the grammar"));
  }
}

// Whatever they ask for, a guide either is not made, or says what may come next, or fails for good:
// it never lets everything through.
TEST_F(TextGuide, GrammarBombsEndInARefusal) {
  const std::string open(60'000, '(');
  const std::string close(60'000, ')');
  std::string deep = "1";
  for (int i = 0; i < 5'000; ++i) deep = R"({"items":)" + deep + "}";
  for (const auto& [tag, grammar] : std::vector<std::pair<std::string, std::string>>{
           {"regex", open},
           {"regex", open + "a" + close},
           {"regex", "a{1,1000000000}"},
           {"regex", "((((a{1,99}){1,99}){1,99}){1,99}){1,99}"},
           {"regex", "(a|b|ab|ba){1000}(.{1,1000}){1,1000}"},
           {"json_schema", R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"},
                               "b": {"$ref": "#/$defs/a"}}})"},
           {"json_schema", R"({"type": "string", "maxLength": 1000000000, "minLength": 99999999})"},
           {"json_schema", R"({"type": "array", "minItems": 1000000000})"},
           {"json_schema", deep},
           {"lark", "start: start start"},
           {"lark", "start: " + open + "\"a\"" + close}}) {
    Result<Guide> guide = factory_->make(tag, grammar);
    if (!guide.ok()) {
      EXPECT_THAT(guide.error().message, HasSubstr("the grammar")) << grammar.substr(0, 60);
      EXPECT_LT(guide.error().message.size(), 2000U);
      continue;
    }
    std::vector<uint32_t> words((kPaddedVocabSize + 31) / 32);
    bool failed = false;
    for (int n_tokens = 0; n_tokens < 20 && !failed; ++n_tokens) {
      failed = !guide->mask(words).ok();
      if (failed) break;
      const std::vector<int32_t> next = allowed(*guide);
      ASSERT_FALSE(next.empty()) << grammar.substr(0, 60);
      EXPECT_LT(next.size(), size_t{4096}) << grammar.substr(0, 60);
      failed = !guide->push(next.front()).ok();
    }
    EXPECT_TRUE(!failed || !guide->mask(words).ok()) << grammar.substr(0, 60);
  }
}

TEST_F(TextGuide, RefusesAVocabularySmallerThanTheTokenizer) {
  EXPECT_FALSE(GuideFactory::create(tokenizer_, 100, kEndTokens).ok());
  const int32_t outside[] = {5000};
  EXPECT_FALSE(GuideFactory::create(tokenizer_, kPaddedVocabSize, outside).ok());
}

}  // namespace
}  // namespace trireme
