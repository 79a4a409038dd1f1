#include "model/pooling_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/model_test_util.h"

namespace trireme {
namespace {

std::string other_of(const std::string& text) {
  const testing::TempFolder folder;
  std::filesystem::create_directory(folder / "1_Pooling");
  testing::write_file(folder / kPoolingConfigFile, text);
  return other_pooling(folder.path());
}

TEST(PoolingConfig, OnlyTheLastTokenIsKnown) {
  const testing::TempFolder none;
  EXPECT_EQ(other_pooling(none.path()), "");
  EXPECT_EQ(other_of(R"({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": false,
                         "pooling_mode_lasttoken": true})"),
            "");
  EXPECT_EQ(other_of(R"({"pooling_mode": "lasttoken"})"), "");
  EXPECT_EQ(other_of(R"({"pooling_mode_mean_tokens": true})"), "pooling_mode_mean_tokens");
  EXPECT_EQ(other_of(R"({"pooling_mode_lasttoken": true, "pooling_mode_cls_token": true})"),
            "pooling_mode_cls_token");
  EXPECT_EQ(other_of(R"({"pooling_mode": "mean"})"), "mean");
  EXPECT_EQ(other_of("{}"), "none that is known");
  EXPECT_THAT(testing::environment_error([] { other_of(R"({"pooling_mode_lasttoken": 5})"); }),
              ::testing::HasSubstr("pooling_mode_lasttoken"));
}

}  // namespace
}  // namespace trireme
