#include "model/quantize.h"

#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "model/checksum.h"

namespace trireme {
namespace {

using Quantize = void (*)(const float*, int64_t, uint8_t*, BF16*);

struct Group {
  std::vector<uint8_t> q;
  std::vector<BF16> scales = std::vector<BF16>(kPanelColumns, BF16{0x7fff});
};

Group quantized(Quantize quantize, const std::vector<float>& x) {
  Group out;
  out.q.assign(x.size(), 99);
  quantize(x.data(), static_cast<int64_t>(x.size()) / kPanelColumns, out.q.data(),
           out.scales.data());
  return out;
}

// Numbers of both signs; each column of another magnitude, one zero, one with a far outlier.
std::vector<float> numbers(int64_t k, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> out;
  for (int64_t j = 0; j < k; ++j) {
    for (int i = 0; i < kPanelColumns; ++i) {
      // A sum of uniform numbers; std::normal_distribution differs between libraries.
      float x = 0.0F;
      for (int n = 0; n < 6; ++n) x += static_cast<float>(random() >> 8) * 0x1p-24F - 0.5F;
      if (i == 3) x = 0.0F;
      if (i == 5 && j == 7) x = 1000.0F;
      out.push_back(x * std::ldexp(1.0F, 3 * i - 20));
    }
  }
  return out;
}

double squared_error(const std::vector<float>& x, const Group& group, int column, float scale,
                     int center) {
  double sum = 0.0;
  for (size_t at = static_cast<size_t>(column); at < x.size(); at += kPanelColumns) {
    const double off = x[at] - static_cast<double>(scale) * (group.q[at] - center);
    sum += off * off;
  }
  return sum;
}

TEST(Quantize, Int8IsWithinHalfAStepOfEveryNumber) {
  for (const int64_t k : {1, 4, 77, 128}) {
    const std::vector<float> x = numbers(k, static_cast<uint32_t>(k));
    const Group group = quantized(quantize_int8, x);
    for (size_t at = 0; at < x.size(); ++at) {
      const float scale = to_float(group.scales[at % kPanelColumns]);
      const int q = group.q[at] - kCenterI8;
      ASSERT_LE(std::abs(q), 127);
      ASSERT_LE(std::abs(static_cast<double>(x[at]) - static_cast<double>(scale) * q),
                0.5001 * scale);
    }
    for (int i = 0; i < kPanelColumns; ++i) {
      float largest = 0.0F;
      for (int64_t j = 0; j < k; ++j) {
        largest = std::max(largest, std::abs(x[static_cast<size_t>(j * kPanelColumns + i)]));
      }
      // The smallest bf16 that holds it.
      const uint16_t bits = group.scales[static_cast<size_t>(i)].bits;
      ASSERT_GE(to_float(BF16{bits}) * 127.001F, largest);
      if (largest > 0.0F) {
        const auto below = static_cast<uint16_t>(bits - 1);
        ASSERT_LT(to_float(BF16{below}) * 127.0F, largest);
      }
    }
  }
}

// Against a search over every bf16 scale from half to all of what holds the largest number.
TEST(Quantize, Int4IsNearTheBestScale) {
  const std::vector<float> x = numbers(32, 5);
  const Group group = quantized(quantize_int4, x);
  double got = 0.0;
  double best = 0.0;
  for (int i = 0; i < kPanelColumns; ++i) {
    float largest = 0.0F;
    for (size_t at = static_cast<size_t>(i); at < x.size(); at += kPanelColumns) {
      largest = std::max(largest, std::abs(x[at]));
    }
    const float scale = to_float(group.scales[static_cast<size_t>(i)]);
    const double error = squared_error(x, group, i, scale, kCenterI4);
    if (largest == 0.0F) {
      ASSERT_EQ(error, 0.0);
      continue;
    }
    double least = error;
    for (int step = 0; step < 256; ++step) {
      for (const float sign : {-1.0F, 1.0F}) {
        const auto high = static_cast<uint16_t>(to_bf16(largest / 6.0F).bits - step);
        const float tried = sign * to_float(BF16{high});
        Group other;
        for (const float value : x) {
          const float q = std::clamp(std::nearbyint(value / tried), -8.0F, 7.0F);
          other.q.push_back(static_cast<uint8_t>(q + kCenterI4));
        }
        least = std::min(least, squared_error(x, other, i, tried, kCenterI4));
      }
    }
    EXPECT_LE(error, 1.1 * least) << i;
    got += error / (largest * largest);
    best += least / (largest * largest);
  }
  EXPECT_LE(got, 1.03 * best);
}

TEST(Quantize, TheLevelsAreTheNearestOfTheirScale) {
  const std::vector<float> x = numbers(32, 6);
  const Group group = quantized(quantize_int4, x);
  for (size_t at = 0; at < x.size(); ++at) {
    const float scale = to_float(group.scales[at % kPanelColumns]);
    ASSERT_LT(group.q[at], 16);
    if (scale == 0.0F) {
      ASSERT_EQ(group.q[at], kCenterI4);
      continue;
    }
    const double level = std::clamp(static_cast<double>(x[at]) / scale, -8.0, 7.0);
    ASSERT_LE(std::abs(level - (group.q[at] - kCenterI4)), 0.5001);
  }
}

TEST(Quantize, ZerosAndTinyNumbersAreZero) {
  for (const float value : {0.0F, -0.0F, 0x1p-140F, -0x1p-120F}) {
    const std::vector<float> x(32 * kPanelColumns, value);
    for (const auto& [quantize, center] :
         {std::pair<Quantize, int>{quantize_int8, kCenterI8}, {quantize_int4, kCenterI4}}) {
      const Group group = quantized(quantize, x);
      for (const uint8_t q : group.q) ASSERT_EQ(q, center);
      for (const BF16 scale : group.scales) ASSERT_EQ(scale.bits, 0);
    }
  }
}

TEST(Quantize, HugeNumbersStayFinite) {
  const std::vector<float> x(32 * kPanelColumns, -3e38F);
  for (const Quantize quantize : {quantize_int8, quantize_int4}) {
    const Group group = quantized(quantize, x);
    for (const BF16 scale : group.scales) ASSERT_TRUE(std::isfinite(to_float(scale)));
    const int center = quantize == quantize_int8 ? kCenterI8 : kCenterI4;
    EXPECT_NEAR(to_float(group.scales[0]) * static_cast<float>(group.q[0] - center), -3e38F,
                0.01 * 3e38);
  }
}

// The same bytes on every machine: other bytes here mean another numerics id and other goldens.
TEST(Quantize, KnownBytes) {
  const auto sum = [](Quantize quantize, int64_t k) {
    const Group group = quantized(quantize, numbers(k, 9));
    Checksum64 out;
    out.add(std::as_bytes(std::span(group.q)));
    out.add(std::as_bytes(std::span(group.scales)));
    return out.value();
  };
  EXPECT_EQ(sum(quantize_int8, 128), 12949856059959679196U);
  EXPECT_EQ(sum(quantize_int4, 32), 17922393428430416894U);
}

}  // namespace
}  // namespace trireme
