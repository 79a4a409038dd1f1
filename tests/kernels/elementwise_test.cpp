#include <cmath>

#include "kernels/scalar_math.h"
#include "tests/kernels/kernel_fixture.h"
#include "tests/kernels/weight_fixture.h"

namespace trireme::test {
namespace {

class ElementwiseTest : public KernelTest {};

TEST_P(ElementwiseTest, RmsNorm) {
  for (const int64_t n : {1, 15, 64, 100}) {
    auto x = random_floats(static_cast<size_t>(3 * n), 4.0F);
    const auto w = random_floats(static_cast<size_t>(n));
    std::vector<float> out(x.size(), NAN);
    kernels().rms_norm({}, make_tensor(out.data(), DType::kF32, {3, n}),
                       make_tensor(x.data(), DType::kF32, {3, n}), w.data(), 1e-5F);
    for (int64_t r = 0; r < 3; ++r) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += std::pow(x[static_cast<size_t>(r * n + i)], 2);
      for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(r * n + i);
        const double want = static_cast<double>(x[at]) /
                            std::sqrt(sum / static_cast<double>(n) + 1e-5) *
                            static_cast<double>(w[static_cast<size_t>(i)]);
        ASSERT_NEAR(out[at], want, 1e-5 * (1 + std::abs(want)));
      }
    }
  }
}

TEST_P(ElementwiseTest, RopeRotatesHalves) {
  const int64_t half = 9;
  std::vector<int32_t> positions = {0, 1, 77, 100000};
  std::vector<float> inv_freq(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    inv_freq[static_cast<size_t>(i)] = std::pow(10000.0F, -static_cast<float>(i) / half);
  }
  std::vector<float> cos(static_cast<size_t>(4 * half));
  std::vector<float> sin(static_cast<size_t>(4 * half));
  const Tensor c = make_tensor(cos.data(), DType::kF32, {4, half});
  const Tensor s = make_tensor(sin.data(), DType::kF32, {4, half});
  kernels().rope_table({}, c, s, make_tensor(positions.data(), DType::kI32, {4}), inv_freq.data(),
                       1.5F);
  auto x = random_floats(static_cast<size_t>(4 * 2 * 2 * half));
  const auto before = x;
  kernels().rope({}, make_tensor(x.data(), DType::kF32, {4, 2, 2 * half}), c, s);
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(static_cast<float>(positions[static_cast<size_t>(t)]) *
                                inv_freq[static_cast<size_t>(i)]);
        const auto a = static_cast<size_t>(((t * 2 + h) * 2) * half + i);
        const auto b = a + static_cast<size_t>(half);
        const double wa = 1.5 * (static_cast<double>(before[a]) * std::cos(angle) -
                                 static_cast<double>(before[b]) * std::sin(angle));
        const double wb = 1.5 * (static_cast<double>(before[b]) * std::cos(angle) +
                                 static_cast<double>(before[a]) * std::sin(angle));
        ASSERT_NEAR(x[a], wa, 1e-5);
        ASSERT_NEAR(x[b], wb, 1e-5);
      }
    }
  }
}

TEST_P(ElementwiseTest, SiluMulAndExpOverTheWholeRange) {
  std::vector<float> gate;
  for (float g = -120.0F; g <= 120.0F; g += 0.37F) gate.push_back(g);
  const auto n = static_cast<int64_t>(gate.size());
  auto up = random_floats(gate.size());
  std::vector<float> out(gate.size());
  kernels().silu_mul({}, make_tensor(out.data(), DType::kF32, {1, n}),
                     make_tensor(gate.data(), DType::kF32, {1, n}),
                     make_tensor(up.data(), DType::kF32, {1, n}));
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i];
    const double want = g / (1 + std::exp(-g)) * static_cast<double>(up[i]);
    ASSERT_NEAR(out[i], want, 1e-6 * (1 + std::abs(want))) << g;
  }
  std::vector<float> e(gate.size());
  kernels().scaled_exp({}, make_tensor(e.data(), DType::kF32, {n}),
                       make_tensor(gate.data(), DType::kF32, {n}), 120.0F, 0.5F);
  for (size_t i = 0; i < gate.size(); ++i) {
    const float arg = (gate[i] - 120.0F) * 0.5F;
    const double want = arg < -87.0F ? 0.0 : std::exp(static_cast<double>(arg));
    ASSERT_NEAR(e[i], want, 5e-7 * want);
  }
}

TEST_P(ElementwiseTest, LogSumExpOverUnevenVocabularies) {
  for (const int64_t n : {1, 320, 1024, 1100, 2500}) {
    auto x = random_floats(static_cast<size_t>(n), 10.0F);
    float out = 0;
    kernels().log_sum_exp({}, make_tensor(&out, DType::kF32, {1}),
                          make_tensor(x.data(), DType::kF32, {1, n}));
    double max = -1e9;
    for (const float v : x) max = std::max(max, static_cast<double>(v));
    double sum = 0;
    for (const float v : x) sum += std::exp(static_cast<double>(v) - max);
    ASSERT_NEAR(out, max + std::log(sum), 2e-6 * std::abs(max));
  }
}

// As masks and faults make them, in every lane: of equal ones the first is the largest, and what is
// not a number counts as if it were not there.
TEST_P(ElementwiseTest, OddLogitsHaveALargestAndASum) {
  for (const int64_t n : {1, 2, 15, 16, 17, 33, 100}) {
    for (int trial = 0; trial < 50; ++trial) {
      auto x = random_floats(static_cast<size_t>(n), 3.0F);
      const auto some = static_cast<uint32_t>(1 + random_() % 20);
      for (float& v : x) {
        v = std::round(v);
        if (random_() % some == 0) v = random_() % 2 == 0 ? NAN : -INFINITY;
      }
      size_t largest = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        if (x[i] > x[largest] || std::isnan(x[largest])) largest = std::isnan(x[i]) ? largest : i;
      }
      int32_t id = -1;
      kernels().argmax({}, make_tensor(&id, DType::kI32, {1}),
                       make_tensor(x.data(), DType::kF32, {1, n}));
      ASSERT_EQ(id, static_cast<int32_t>(largest));
      if (!std::isfinite(x[largest])) continue;
      double sum = 0;
      for (const float v : x) sum += std::isnan(v) ? 0 : std::exp(static_cast<double>(v));
      float out = 0;
      kernels().log_sum_exp({}, make_tensor(&out, DType::kF32, {1}),
                            make_tensor(x.data(), DType::kF32, {1, n}));
      ASSERT_NEAR(out, std::log(sum), 1e-5);
    }
  }
}

TEST_P(ElementwiseTest, EmbedTakesOwnRowsAndZeroesOthers) {
  const int32_t hidden = 72;
  for (const WeightEncoding encoding : all_encodings()) {
    const PlainWeight plain = random_weight(encoding, 40, hidden, random_);
    const PackedBlock packed = plain.pack(0, 40);
    std::vector<int32_t> ids = {1024, 1063, 0, 1064, 1037};
    std::vector<float> out(ids.size() * static_cast<size_t>(hidden), NAN);
    kernels().embed({}, make_tensor(out.data(), DType::kF32, {5, hidden}),
                    make_tensor(ids.data(), DType::kI32, {5}),
                    {encoding, {}, {&packed.block, 1}, 40, hidden}, 1024);
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int64_t i = 0; i < hidden; ++i) {
        const bool own = ids[t] >= 1024 && ids[t] < 1064;
        const double want = own ? plain.value(ids[t] - 1024, i) : 0.0;
        ASSERT_EQ(out[t * static_cast<size_t>(hidden) + static_cast<size_t>(i)],
                  static_cast<float>(want))
            << encoding_text(encoding);
      }
    }
  }
}

TEST_P(ElementwiseTest, AddTakesTheBiasOnce) {
  auto x = random_floats(20);
  auto y = random_floats(20);
  const auto bias = random_floats(10);
  auto out = x;
  kernels().add({}, make_tensor(out.data(), DType::kF32, {2, 10}),
                make_tensor(y.data(), DType::kF32, {2, 10}), bias.data());
  for (size_t i = 0; i < 20; ++i) ASSERT_EQ(out[i], x[i] + (y[i] + bias[i % 10]));
}

TEST(ScalarMath, MatchesTheStandardLibrary) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 200000; ++i) {
    const double x = std::uniform_real_distribution<>(-60, 60)(random);
    const double a = std::uniform_real_distribution<>(-1e6, 1e6)(random);
    ASSERT_NEAR(portable_exp(x) / std::exp(x), 1.0, 1e-14);
    ASSERT_NEAR(portable_log(std::exp(x)), x, 1e-13);
    ASSERT_NEAR(portable_sin(a), std::sin(a), 1e-14);
    ASSERT_NEAR(portable_cos(a), std::cos(a), 1e-14);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, ElementwiseTest, testing::ValuesIn(runnable_kernels()), kernels_name);

}  // namespace
}  // namespace trireme::test
