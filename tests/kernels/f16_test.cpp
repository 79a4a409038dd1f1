#include "kernels/f16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace trireme {
namespace {

float value_of(uint32_t bits) { return to_float(F16{static_cast<uint16_t>(bits)}); }
uint32_t bits_of(float x) { return to_f16(x).bits; }

TEST(F16, HasTheValueOfAnIeeeHalf) {
  EXPECT_EQ(value_of(0x3c00), 1.0F);
  EXPECT_EQ(value_of(0xc500), -5.0F);
  EXPECT_EQ(value_of(0x7bff), 65504.0F);
  EXPECT_EQ(value_of(0x0001), 0x1p-24F);
  EXPECT_EQ(value_of(0x83ff), -1023.0F * 0x1p-24F);
  EXPECT_EQ(value_of(0x0400), 0x1p-14F);
  EXPECT_EQ(value_of(0x7c00), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(value_of(0x7e00)));
  EXPECT_TRUE(std::signbit(value_of(0x8000)));
}

TEST(F16, EveryOneComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = value_of(bits);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(to_float(to_f16(value))));
    } else {
      ASSERT_EQ(bits_of(value), bits);
    }
  }
}

TEST(F16, RoundsToTheNearest) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float middle = 0.5F * (value_of(bits) + value_of(bits + 1));
    const uint32_t even = bits + bits % 2;
    ASSERT_EQ(bits_of(middle), even);
    ASSERT_EQ(bits_of(-middle), even | 0x8000U);
    ASSERT_EQ(bits_of(std::nextafterf(middle, 0.0F)), bits);
    ASSERT_EQ(bits_of(std::nextafterf(middle, 1e9F)), bits + 1);
  }
  EXPECT_EQ(bits_of(65519.99F), 0x7bffU);
  EXPECT_EQ(bits_of(65520.0F), 0x7c00U);
  EXPECT_EQ(bits_of(-1e30F), 0xfc00U);
  EXPECT_EQ(bits_of(1e-30F), 0U);
}

}  // namespace
}  // namespace trireme
