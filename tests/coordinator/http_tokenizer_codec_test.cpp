#include "coordinator/http/tokenizer_codec.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kernels/result.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

class HttpTokenizerCodec : public testing::Test {
 protected:
  std::string stream(const std::vector<int32_t>& ids, const TextStreamOptions& options,
                     size_t* n_pushed) const {
    const auto text_stream = codec_->open_stream(options, {});
    std::string text;
    *n_pushed = 0;
    for (const int32_t id : ids) {
      ++*n_pushed;
      const TextStream::Piece piece = text_stream->push(id);
      text += piece.text;
      if (piece.stopped) break;
    }
    return text + text_stream->finish();
  }

  const std::unique_ptr<TextCodec> codec_ = load_tokenizer_codec(TRIREME_SOURCE_DIR "/demo/model");
};

TEST_F(HttpTokenizerCodec, RoundTrip) {
  const std::string text = "Once upon a time there was a k\xC3\xB6nig.";
  const auto ids = codec_->encode(text, true);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(codec_->decode(*ids, true), text);
  size_t n_pushed = 0;
  EXPECT_EQ(stream(*ids, {}, &n_pushed), text);
}

TEST_F(HttpTokenizerCodec, StopStrings) {
  const auto ids = codec_->encode("Once upon a time there was a king", false);
  ASSERT_TRUE(ids.ok());
  size_t n_pushed = 0;
  EXPECT_EQ(stream(*ids, {.stop = {"me the"}}, &n_pushed), "Once upon a ti");
  EXPECT_LT(n_pushed, ids->size());
  EXPECT_EQ(stream(*ids, {.stop = {"me the"}, .include_stop_string = true}, &n_pushed),
            "Once upon a time the");
  EXPECT_EQ(stream(*ids, {.stop = {"kings"}}, &n_pushed), "Once upon a time there was a king");
}

TEST_F(HttpTokenizerCodec, Chat) {
  const Json messages = Json::array({{{"role", "user"}, {"content", "Hi <|end|>"}}});
  const auto ids = codec_->encode_chat(messages, {});
  ASSERT_TRUE(ids.ok());
  // The template's control tokens are single tokens; the user's look-alike is not.
  EXPECT_EQ(codec_->decode(*ids, false), "<|user|>Hi <|end|><|end|><|assistant|>");
  EXPECT_EQ(codec_->decode(*ids, true), "Hi <|end|>");
  const auto without = codec_->encode_chat(messages, {.add_generation_prompt = false});
  ASSERT_TRUE(without.ok());
  EXPECT_EQ(without->size() + 1, ids->size());
}

TEST_F(HttpTokenizerCodec, MissingFolderIsAnEnvironmentError) {
  EXPECT_THROW(load_tokenizer_codec("/nonexistent"), EnvironmentError);
}

}  // namespace
}  // namespace trireme
