#include "coordinator/http/embedding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::FloatEq;
using Floats = std::vector<float>;

TEST(Embedding, IsCutAndThenNormalized) {
  EXPECT_THAT(make_embedding({3, 4, 12}, 3, false), ElementsAre(3, 4, 12));
  EXPECT_THAT(make_embedding({3, 4, 12}, 2, false), ElementsAre(3, 4));
  EXPECT_THAT(make_embedding({3, 4, 12}, 2, true), ElementsAre(0.6F, 0.8F));
  EXPECT_THAT(make_embedding({3, 4, 12}, 3, true),
              ElementsAre(FloatEq(3.0F / 13.0F), FloatEq(4.0F / 13.0F), FloatEq(12.0F / 13.0F)));
  EXPECT_THAT(make_embedding({0, 0}, 2, true), ElementsAre(0, 0));
  // Squares that float32 cannot hold.
  EXPECT_THAT(make_embedding({3e30F, 4e30F}, 2, true), ElementsAre(FloatEq(0.6F), FloatEq(0.8F)));
}

TEST(Embedding, Cosine) {
  EXPECT_EQ(cosine_similarity(Floats{1, 0}, Floats{0, 5}), 0.0);
  EXPECT_EQ(cosine_similarity(Floats{2, 0}, Floats{5, 0}), 1.0);
  EXPECT_EQ(cosine_similarity(Floats{2, 0}, Floats{-5, 0}), -1.0);
  EXPECT_DOUBLE_EQ(cosine_similarity(Floats{3, 4}, Floats{4, 3}), 24.0 / 25.0);
  EXPECT_EQ(cosine_similarity(Floats{0, 0}, Floats{4, 3}), 0.0);
  std::mt19937 random(3);
  Floats a(999);
  for (float& value : a) value = static_cast<float>(random()) * 1e-9F - 2.0F;
  EXPECT_LE(cosine_similarity(a, a), 1.0) << "rounding leads past no bound";
  EXPECT_DOUBLE_EQ(cosine_similarity(a, a), 1.0);
}

TEST(Embedding, Base64) {
  EXPECT_EQ(base64_of(Floats{}), "");
  EXPECT_EQ(base64_of(Floats{1.0F}), "AACAPw==");
  EXPECT_EQ(base64_of(Floats{1.0F, -2.5F}), "AACAPwAAIMA=");
  EXPECT_EQ(base64_of(Floats{1.0F, -2.5F, 0.1F}), "AACAPwAAIMDNzMw9");
}

// The text has the very floats.
TEST(Embedding, JsonListReadsBackBitForBit) {
  std::mt19937 random(5);
  Floats values = {0.0F, -0.0F, 1.0F, 1e-45F, 3.4e38F, -0.1F, 16777216.0F};
  for (int i = 0; i < 2000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isfinite(value)) values.push_back(value);
  }
  std::string text;
  append_json_list(values, &text);
  const auto json = nlohmann::json::parse(text);
  ASSERT_EQ(json.size(), values.size());
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(static_cast<float>(json[i].get<double>()), values[i]);
  text.clear();
  append_json_list(Floats{}, &text);
  EXPECT_EQ(text, "[]");
}

TEST(Embedding, Finite) {
  EXPECT_TRUE(all_finite(Floats{1, -3e38F}));
  EXPECT_FALSE(all_finite(Floats{1, std::numeric_limits<float>::quiet_NaN()}));
  EXPECT_FALSE(all_finite(Floats{-std::numeric_limits<float>::infinity()}));
}

}  // namespace
}  // namespace trireme
