#include "coordinator/text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/coordinator/text_test_data.h"

namespace trireme {
namespace {

using test::Json;

using Ids = std::vector<int32_t>;

bool is_utf8(const std::string& text) {
  // dump() is strict about it.
  try {
    return Json(text).dump().size() >= 2;
  } catch (const Json::exception&) {
    return false;
  }
}

// Everything the detokenizer gives for `ids`; each piece must be whole characters.
std::string stream(Detokenizer detokenizer, std::span<const int32_t> ids) {
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = detokenizer.push(id);
    EXPECT_TRUE(is_utf8(piece));
    text += piece;
  }
  return text + detokenizer.finish();
}

TEST(TextDetokenizer, StreamsWhatDecodingAtOnceGives) {
  const Json models = test::text_cases();
  for (const auto& [model, cases] : models.items()) {
    const Tokenizer tokenizer = Tokenizer::load(test::source_path(cases["folder"]));
    for (const Json& expected : cases["encodings"]) {
      SCOPED_TRACE(model + ": " + expected["text"].get<std::string>());
      const Ids ids = expected["ids"];
      EXPECT_EQ(stream(Detokenizer(tokenizer, false), ids), expected["decoded"]);
      EXPECT_EQ(stream(Detokenizer(tokenizer, true), ids), expected["decoded_skip"]);
    }
  }
}

TEST(TextDetokenizer, ContinuesAPromptWhereverItIsCut) {
  const Json models = test::text_cases();
  for (const auto& [model, cases] : models.items()) {
    const Tokenizer tokenizer = Tokenizer::load(test::source_path(cases["folder"]));
    for (const Json& expected : cases["encodings"]) {
      const Ids ids = expected["ids"];
      const std::string whole = tokenizer.decode(ids, false);
      for (size_t cut = 0; cut <= ids.size(); ++cut) {
        const std::span<const int32_t> prompt(ids.data(), cut);
        const std::string before = tokenizer.decode(prompt, false);
        if (before.ends_with("\xEF\xBF\xBD")) {
          continue;  // the prompt may end inside a character
        }
        SCOPED_TRACE(model + ": " + before);
        EXPECT_EQ(
            before + stream(Detokenizer(tokenizer, false, prompt), std::span(ids).subspan(cut)),
            whole);
      }
    }
  }
}

TEST(TextDetokenizer, GivesOutTextAsSoonAsItIsFinal) {
  const Tokenizer demo = Tokenizer::load(test::source_path("demo/model"));
  Detokenizer detokenizer(demo, true);
  const Ids ids = *demo.encode("Once upon a time", false);
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    text += detokenizer.push(ids[i]);
    EXPECT_EQ(text, demo.decode(std::span(ids).first(i + 1), true));
  }
}

TEST(TextDetokenizer, HoldsBackAnUnfinishedCharacterUntilTheEnd) {
  const Tokenizer demo = Tokenizer::load(test::source_path("demo/model"));
  Ids ids = *demo.encode("a\U0001F98A", false);
  ASSERT_GE(ids.size(), 3u);
  ids.pop_back();
  Detokenizer detokenizer(demo, true);
  std::string text;
  for (const int32_t id : ids) {
    text += detokenizer.push(id);
  }
  EXPECT_EQ(text, "a");
  EXPECT_EQ(detokenizer.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.finish(), "");
}

TEST(TextDetokenizer, RandomTokensLoseNothing) {
  const Json models = test::text_cases();
  for (const auto& [model, cases] : models.items()) {
    const Tokenizer tokenizer = Tokenizer::load(test::source_path(cases["folder"]));
    const Ids end = *tokenizer.encode(" the end", false);
    std::mt19937 random(7);
    for (int round = 0; round < 200; ++round) {
      // Mostly byte tokens, so that characters are often broken; runs stay short of the bound.
      Ids ids(40);
      for (int32_t& id : ids) {
        id = static_cast<int32_t>(random() % static_cast<uint32_t>(round % 2 == 0 ? 270 : 500));
      }
      ids.insert(ids.end(), end.begin(), end.end());
      SCOPED_TRACE(model + " round " + std::to_string(round));
      const std::string text = stream(Detokenizer(tokenizer, true), ids);
      // Decoding at once takes back good bytes before bad ones with byte pieces (mistral).
      if (model == "mistral") {
        EXPECT_TRUE(text.ends_with(" the end")) << text;
      } else {
        EXPECT_EQ(text, tokenizer.decode(ids, true));
      }
    }
  }
}

TEST(TextDetokenizer, ABadByteAfterAGoodOneTakesNothingBack) {
  const Tokenizer mistral = Tokenizer::load(test::source_path("tests/data/text/mistral"));
  Ids ids = {*mistral.token_id("<0x41>"), *mistral.token_id("<0xE4>")};
  const Ids rest = *mistral.encode("a tale", false);
  ids.insert(ids.end(), rest.begin(), rest.end());
  EXPECT_EQ(stream(Detokenizer(mistral, true), ids), "A\xEF\xBF\xBD a tale");
}

TEST(TextDetokenizer, EndlessBrokenBytesAreGivenOutInTheEnd) {
  for (const char* model : {"demo/model", "tests/data/text/mistral"}) {
    const Tokenizer tokenizer = Tokenizer::load(test::source_path(model));
    const int32_t byte = tokenizer.encode("\U0001F98A", false)->back();  // a continuation byte
    Detokenizer detokenizer(tokenizer, true);
    size_t n_characters = 0;
    for (int i = 0; i < 10000; ++i) {
      n_characters += detokenizer.push(byte).size() / 3;
    }
    n_characters += detokenizer.finish().size() / 3;
    EXPECT_EQ(n_characters, 10000u) << model;
  }
}

TEST(TextDetokenizer, SkippedTokensBeforeTextDoNotHideIt) {
  const Tokenizer demo = Tokenizer::load(test::source_path("demo/model"));
  Ids ids(500, 3);
  const Ids text = *demo.encode("at last", false);
  ids.insert(ids.end(), text.begin(), text.end());
  EXPECT_EQ(stream(Detokenizer(demo, true), ids), "at last");
}

}  // namespace
}  // namespace trireme
