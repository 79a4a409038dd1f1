#include <bit>
#include <cmath>

#include "kernels/thread_pool.h"
#include "tests/kernels/kernel_fixture.h"
#include "tests/kernels/weight_fixture.h"

namespace trireme::test {
namespace {

class FusedTest : public KernelTest {
 protected:
  static void expect_same(const TestInput& a, const TestInput& b) {
    EXPECT_EQ(a.values, b.values);
    EXPECT_EQ(0, std::memcmp(a.scales.data(), b.scales.data(), a.scales.size() * sizeof(float)));
    EXPECT_EQ(a.sums, b.sums);
  }
};

constexpr DType kInputTypes[] = {DType::kF32, DType::kBF16, DType::kI8};

// Every value lies within half a step of what it stands for, and the sums are its integers'.
TEST_P(FusedTest, QuantizedInputsAreNearestAndSummed) {
  const std::vector<int32_t> widths = {300, 8, 128, 45};
  TestInput in(5, widths, DType::kI8);
  auto x = random_floats(static_cast<size_t>(in.m * in.k), 3.0F);
  for (int64_t i = 0; i < 128; ++i) x[static_cast<size_t>(in.k + i)] = 0.0F;  // a block of zeros
  kernels().to_gemm_input({}, in.input, make_tensor(x.data(), DType::kF32, {in.m, in.k}));
  const int64_t stride = in.input.values.row_stride;
  for (int64_t r = 0; r < in.m; ++r) {
    for (const InputSpan& span : in.spans) {
      for (int64_t offset = 0; offset < span.n; offset += kQuantBlock) {
        const int64_t n = std::min<int64_t>(kQuantBlock, span.n - offset);
        float largest = 0.0F;
        for (int64_t i = 0; i < n; ++i) {
          largest = std::max(largest,
                             std::abs(x[static_cast<size_t>(r * in.k + span.column + offset + i)]));
        }
        for (int64_t i = 0; i < n; ++i) {
          const int64_t column = span.column + offset + i;
          ASSERT_NEAR(in.value(r, column), x[static_cast<size_t>(r * in.k + column)],
                      static_cast<double>(largest) / 254 * 1.0001);
        }
      }
    }
    for (int64_t g = 0; g < stride / kSumGroup; ++g) {
      int32_t sum = 0;
      for (int64_t i = 0; i < kSumGroup; ++i) {
        sum += static_cast<int8_t>(in.values[static_cast<size_t>(r * stride + g * kSumGroup + i)]);
      }
      ASSERT_EQ(in.sums[static_cast<size_t>(r * stride / kSumGroup + g)], sum);
    }
  }
}

// What is not a number stays visible, in its own row and block only.
TEST_P(FusedTest, NonFiniteInputsPoisonTheirOwnScaleOnly) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    TestInput in(3, {2 * kQuantBlock}, DType::kI8);
    auto x = random_floats(static_cast<size_t>(in.m * in.k));
    x[static_cast<size_t>(in.k + kQuantBlock + 37)] = bad;  // row 1, second block
    kernels().to_gemm_input({}, in.input, make_tensor(x.data(), DType::kF32, {in.m, in.k}));
    for (size_t i = 0; i < in.scales.size(); ++i) {
      EXPECT_EQ(std::isnan(in.scales[i]), i == 3) << bad << " at " << i;
    }
    for (const uint8_t q : in.values) EXPECT_NE(static_cast<int8_t>(q), -128);

    const WeightEncoding encoding = default_encoding(WeightFormat::kI8);
    const PackedBlock packed = random_weight(encoding, 16, 2 * kQuantBlock, random_).pack(0, 16);
    std::vector<float> out(3 * 16);
    kernels().linear({}, make_tensor(out.data(), DType::kF32, {3, 16}), in.input,
                     {encoding, {}, {&packed.block, 1}, 16, 2 * kQuantBlock});
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 16 == 1);
  }
}

TEST_P(FusedTest, Bf16InputsAreRoundedAsTheScalarFunctionDoes) {
  std::vector<float> x = {0.0F,      -0.0F,   1.0F,      1e-40F,      -3e-42F,    INFINITY,
                          -INFINITY, 3.4e38F, -3.39e38F, 1.00390625F, 1.01171875F};
  for (int i = 0; i < 5000; ++i)
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(random_())));
  x.push_back(NAN);
  x.push_back(std::bit_cast<float>(0xff800001U));  // a NaN whose upper half is infinity's
  TestInput in(1, {static_cast<int32_t>(x.size())}, DType::kBF16);
  kernels().to_gemm_input({}, in.input, make_tensor(x.data(), DType::kF32, {1, in.k}));
  const auto* got = reinterpret_cast<const BF16*>(in.values.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(got[i].bits, to_bf16(x[i]).bits) << x[i];
  }
}

TEST_P(FusedTest, NormsGiveTheBitsOfTheirParts) {
  for (const DType dtype : kInputTypes) {
    const std::vector<int32_t> widths = {200};
    TestInput parts(19, widths, dtype);
    TestInput fused(19, widths, dtype);
    TestInput added(19, widths, dtype);
    const int64_t n = parts.k;
    const auto x = random_floats(static_cast<size_t>(19 * n));
    auto y = random_floats(x.size());
    const auto bias = random_floats(static_cast<size_t>(n));
    const auto weight = random_floats(static_cast<size_t>(n));
    const auto tensor = [&](std::vector<float>& v) {
      return make_tensor(v.data(), DType::kF32, {19, n});
    };
    auto sum = x;
    kernels().add({}, tensor(sum), tensor(y), bias.data());
    std::vector<float> normed(x.size());
    kernels().rms_norm({}, tensor(normed), tensor(sum), weight.data(), 1e-5F);
    kernels().to_gemm_input({}, parts.input, tensor(normed));

    ThreadPool pool(2);
    kernels().rms_norm_input({{}, &pool, nullptr}, fused.input, tensor(sum), weight.data(), 1e-5F);
    expect_same(parts, fused);
    auto residual = x;
    kernels().add_rms_norm_input({}, added.input, tensor(residual), tensor(y), bias.data(),
                                 weight.data(), 1e-5F);
    expect_same(parts, added);
    EXPECT_EQ(residual, sum);
  }
}

TEST_P(FusedTest, GateUpGivesTheBitsOfItsParts) {
  ThreadPool pool(2);
  for (const WeightEncoding encoding : all_encodings()) {
    const std::vector<int32_t> widths = {64, 160, 33};
    const int32_t k = 96;
    // Few and many rows go different ways.
    const int64_t m = encoding.has_zeros ? 71 : 7;
    std::vector<PackedBlock> packed;
    std::vector<WeightBlock> blocks[2];
    int32_t n = 0;
    for (const int32_t width : widths) {
      for (auto& list : blocks) {
        packed.push_back(random_weight(encoding, width, k, random_).pack(0, width));
        list.push_back(packed.back().block);
        list.back().out_begin = n;
      }
      n += width;
    }
    const Weight gate{encoding, {}, blocks[0], n, k};
    const Weight up{encoding, {}, blocks[1], n, k};
    const DType dtype = gemm_input_dtype(encoding.format);
    TestInput x(m, {k}, dtype);
    auto values = random_floats(static_cast<size_t>(m * k));
    kernels().to_gemm_input({}, x.input, make_tensor(values.data(), DType::kF32, {m, k}));

    std::vector<float> g(static_cast<size_t>(m * n));
    std::vector<float> u(g.size());
    const Tensor g_tensor = make_tensor(g.data(), DType::kF32, {m, n});
    const Tensor u_tensor = make_tensor(u.data(), DType::kF32, {m, n});
    TestInput parts(m, widths, dtype);
    kernels().linear({}, g_tensor, x.input, gate);
    kernels().linear({}, u_tensor, x.input, up);
    kernels().silu_mul({}, g_tensor, g_tensor, u_tensor);
    kernels().to_gemm_input({}, parts.input, g_tensor);

    TestInput fused(m, widths, dtype);
    kernels().gate_up({{}, &pool, nullptr}, fused.input, x.input, gate, up, g_tensor, u_tensor);
    expect_same(parts, fused);
  }
}

TEST_P(FusedTest, RopeAndStoreGiveTheBitsOfTheirParts) {
  const int64_t n = 21;
  const int64_t head_dim = 32;
  auto q = random_floats(static_cast<size_t>(n * 4 * head_dim));
  auto k = random_floats(static_cast<size_t>(n * 2 * head_dim));
  auto v = random_floats(k.size());
  auto cos = random_floats(static_cast<size_t>(n * head_dim / 2));
  auto sin = random_floats(cos.size());
  std::vector<int32_t> slots(static_cast<size_t>(n));
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int32_t>(i) + 5;
  const auto run = [&](bool fused) {
    auto q2 = q;
    auto k2 = k;
    std::vector<BF16> keys(static_cast<size_t>(2 * kKvBlockTokens * 2 * head_dim));
    std::vector<BF16> values(keys.size());
    KvLayer kv;
    kv.k = keys.data();
    kv.v = values.data();
    kv.dtype = DType::kBF16;
    kv.n_blocks = 2;
    kv.n_kv_heads = 2;
    kv.head_dim = static_cast<int32_t>(head_dim);
    const Tensor q_tensor = make_tensor(q2.data(), DType::kF32, {n, 4, head_dim});
    const Tensor k_tensor = make_tensor(k2.data(), DType::kF32, {n, 2, head_dim});
    const Tensor v_tensor = make_tensor(v.data(), DType::kF32, {n, 2, head_dim});
    const Tensor c = make_tensor(cos.data(), DType::kF32, {n, head_dim / 2});
    const Tensor s = make_tensor(sin.data(), DType::kF32, {n, head_dim / 2});
    const Tensor slot_tensor = make_tensor(slots.data(), DType::kI32, {n});
    if (fused) {
      kernels().rope_store_kv({}, kv, q_tensor, k_tensor, v_tensor, c, s, slot_tensor);
    } else {
      kernels().rope({}, q_tensor, c, s);
      kernels().rope({}, k_tensor, c, s);
      kernels().store_kv({}, kv, k_tensor, v_tensor, slot_tensor);
    }
    std::vector<uint16_t> bits;
    for (const auto* side : {&keys, &values}) {
      for (const BF16 x : *side) bits.push_back(x.bits);
    }
    return std::tuple(q2, k2, bits);
  };
  EXPECT_EQ(run(false), run(true));
}

INSTANTIATE_TEST_SUITE_P(Isa, FusedTest, testing::ValuesIn(runnable_kernels()), kernels_name);

}  // namespace
}  // namespace trireme::test
