#include <cmath>

#include "kernels/thread_pool.h"
#include "tests/kernels/kernel_fixture.h"
#include "tests/kernels/weight_fixture.h"

namespace trireme::test {
namespace {

struct Case {
  int64_t m;
  int32_t n;
  int32_t k;
};

class LinearTest : public KernelTest {
 protected:
  void fill(TestInput& in, std::vector<float> x) {
    kernels().to_gemm_input({}, in.input, make_tensor(x.data(), DType::kF32, {in.m, in.k}));
  }
  // sum over k of in * weight, and of its magnitudes, in double.
  static std::pair<double, double> dot(const TestInput& in, int64_t row, const PlainWeight& w,
                                       int64_t column, int64_t first_input = 0) {
    double sum = 0;
    double size = 0;
    for (int64_t i = 0; i < w.k; ++i) {
      const double product = in.value(row, first_input + i) * w.value(column, i);
      sum += product;
      size += std::abs(product);
    }
    return {sum, size};
  }
};

TEST_P(LinearTest, MatchesReferenceForEveryShape) {
  for (const WeightEncoding encoding : all_encodings()) {
    for (const Case c : {Case{1, 16, 2},
                         {1, 8, 7},
                         {2, 100, 64},
                         {5, 64, 33},
                         {7, 200, 96},
                         {13, 65, 256},
                         {31, 129, 300}}) {
      const PlainWeight plain = random_weight(encoding, c.n, c.k, random_);
      PackedBlock packed = plain.pack(0, c.n);
      packed.bias = random_floats(static_cast<size_t>(n_padded(c.n)));
      packed.block.bias = packed.bias.data();
      const Weight weight{encoding, {}, {&packed.block, 1}, c.n, c.k};
      TestInput in(c.m, {c.k}, gemm_input_dtype(encoding.format));
      fill(in, random_floats(static_cast<size_t>(c.m * c.k)));
      std::vector<float> out(static_cast<size_t>(c.m * c.n), NAN);
      kernels().linear({}, make_tensor(out.data(), DType::kF32, {c.m, c.n}), in.input, weight);
      for (int64_t row = 0; row < c.m; ++row) {
        for (int64_t column = 0; column < c.n; ++column) {
          const auto [sum, size] = dot(in, row, plain, column);
          const double want = sum + static_cast<double>(packed.bias[static_cast<size_t>(column)]);
          ASSERT_NEAR(out[static_cast<size_t>(row * c.n + column)], want, 1e-6 * (size + 1))
              << encoding_text(encoding) << ": " << c.m << "x" << c.n << "x" << c.k;
        }
      }
    }
  }
}

// The largest products that integers can have, which must not saturate.
TEST_P(LinearTest, ExtremeIntegersAreExact) {
  for (const WeightEncoding encoding : all_encodings()) {
    if (!is_quantized(encoding.format)) continue;
    const int32_t k = 256;
    PlainWeight plain = random_weight(encoding, 16, k, random_);
    const float top = encoding.format == WeightFormat::kI8 ? 255.0F : 15.0F;
    for (size_t i = 0; i < plain.numbers.size(); ++i) {
      plain.numbers[i] = i / static_cast<size_t>(k) % 2 == 0 ? top : 1.0F;
    }
    const PackedBlock packed = plain.pack(0, 16);
    const Weight weight{encoding, {}, {&packed.block, 1}, 16, k};
    for (const float sign : {1.0F, -1.0F}) {
      TestInput in(1, {k}, DType::kI8);
      fill(in, std::vector<float>(static_cast<size_t>(k), sign * 3.0F));
      std::vector<float> out(16, NAN);
      kernels().linear({}, make_tensor(out.data(), DType::kF32, {1, 16}), in.input, weight);
      for (int64_t column = 0; column < 16; ++column) {
        const auto [sum, size] = dot(in, 0, plain, column);
        ASSERT_NEAR(out[static_cast<size_t>(column)], sum, 1e-6 * size) << encoding_text(encoding);
      }
    }
  }
}

// A row's bits must not depend on how many rows are computed with it, nor on the threads.
TEST_P(LinearTest, RowBitsDoNotDependOnTheBatchOrThreads) {
  ThreadPool pool(3);
  for (const WeightEncoding encoding : all_encodings()) {
    const int32_t n = 150;
    const int32_t k = 222;
    const int64_t m = 19;
    const PackedBlock packed = random_weight(encoding, n, k, random_).pack(0, n);
    const Weight weight{encoding, {}, {&packed.block, 1}, n, k};
    TestInput in(m, {k}, gemm_input_dtype(encoding.format));
    fill(in, random_floats(static_cast<size_t>(m * k)));
    std::vector<float> all(static_cast<size_t>(m * n));
    kernels().linear({{}, &pool, nullptr}, make_tensor(all.data(), DType::kF32, {m, n}), in.input,
                     weight);
    for (int64_t begin = 0; begin < m; ++begin) {
      for (int64_t count = 1; begin + count <= m; count += 3) {
        std::vector<float> out(static_cast<size_t>(count * n));
        kernels().linear({}, make_tensor(out.data(), DType::kF32, {count, n}),
                         in.rows(begin, count), weight);
        ASSERT_EQ(0, std::memcmp(out.data(), all.data() + begin * n, out.size() * sizeof(float)))
            << encoding_text(encoding);
      }
    }
  }
}

// More rows than a kernel takes at a time give what a part of them gives.
TEST_P(LinearTest, ManyRowsGiveTheBitsOfAFew) {
  ThreadPool pool(2);
  const int32_t n = 70;
  const int32_t leaf_k = 512;
  const int64_t m = 330;
  const int64_t few = 100;
  const TreeNode root{0, 2};
  for (const WeightEncoding encoding : all_encodings()) {
    std::vector<PackedBlock> packed;
    std::vector<WeightBlock> blocks;
    for (int leaf = 0; leaf < root.end; ++leaf) {
      packed.push_back(random_weight(encoding, n, leaf_k, random_).pack(0, n));
      blocks.push_back(packed.back().block);
    }
    const Weight weight{encoding, {}, blocks, n, 2 * leaf_k};
    TestInput in(m, {leaf_k, leaf_k}, gemm_input_dtype(encoding.format));
    fill(in, random_floats(static_cast<size_t>(m * in.k)));
    const auto compute = [&](int64_t begin, int64_t count) {
      std::vector<float> out(static_cast<size_t>(count * n), NAN);
      kernels().linear_tree({{}, &pool, nullptr},
                            make_tensor(out.data(), DType::kF32, {1, count, n}),
                            in.rows(begin, count), weight, 0, {&root, 1});
      return out;
    };
    const auto all = compute(0, m);
    for (int64_t begin = 0; begin < m; begin += few) {
      const auto part = compute(begin, std::min(few, m - begin));
      ASSERT_EQ(0, std::memcmp(part.data(), all.data() + begin * n, part.size() * sizeof(float)))
          << encoding_text(encoding) << " from row " << begin;
    }
  }
}

// Column blocks (heads, leaves, vocabulary chunks) give each column the bits it has in one block.
TEST_P(LinearTest, ColumnBlocksGiveTheSameBits) {
  for (const WeightEncoding encoding : all_encodings()) {
    const int32_t n = 88;
    const int32_t k = 64;
    const PlainWeight plain = random_weight(encoding, n, k, random_);
    TestInput in(3, {k}, gemm_input_dtype(encoding.format));
    fill(in, random_floats(static_cast<size_t>(3 * k)));
    const auto compute = [&](const std::vector<int32_t>& cuts) {
      std::vector<PackedBlock> packed;
      std::vector<WeightBlock> blocks;
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        packed.push_back(plain.pack(cuts[i], cuts[i + 1]));
        blocks.push_back(packed.back().block);
        blocks.back().out_begin = cuts[i];
      }
      std::vector<float> out(static_cast<size_t>(3 * n), NAN);
      kernels().linear({}, make_tensor(out.data(), DType::kF32, {3, n}), in.input,
                       {encoding, {}, blocks, n, k});
      return out;
    };
    const auto whole = compute({0, n});
    EXPECT_EQ(whole, compute({0, 8, 16, 24, n})) << encoding_text(encoding);
    EXPECT_EQ(whole, compute({0, 40, 64, n})) << encoding_text(encoding);
  }
}

// A rank's subtree sums are what the whole tree adds up from leaf by leaf.
TEST_P(LinearTest, TreeSumsLeavesInTreeOrder) {
  for (const WeightEncoding encoding : all_encodings()) {
    const int32_t n = 72;
    const std::vector<int32_t> leaf_k = {32, 32, 64, 132, 40, 8, 18};
    const auto n_leaves = static_cast<int>(leaf_k.size());
    const int64_t m = 9;
    TestInput in(m, leaf_k, gemm_input_dtype(encoding.format));
    fill(in, random_floats(static_cast<size_t>(m * in.k)));
    std::vector<PlainWeight> plain;
    std::vector<PackedBlock> packed;
    std::vector<WeightBlock> blocks;
    for (const int32_t k : leaf_k) {
      plain.push_back(random_weight(encoding, n, k, random_));
      packed.push_back(plain.back().pack(0, n));
      blocks.push_back(packed.back().block);
    }
    const Weight weight{encoding, {}, blocks, n, static_cast<int32_t>(in.k)};
    const auto sum_nodes = [&](const std::vector<TreeNode>& nodes) {
      std::vector<float> out(nodes.size() * static_cast<size_t>(m * n), NAN);
      kernels().linear_tree(
          {}, make_tensor(out.data(), DType::kF32, {static_cast<int64_t>(nodes.size()), m, n}),
          in.input, weight, 0, nodes);
      return out;
    };
    std::vector<TreeNode> leaves;
    for (int16_t i = 0; i < n_leaves; ++i) {
      leaves.push_back({i, static_cast<int16_t>(i + 1)});
    }
    const auto leaf_sums = sum_nodes(leaves);
    std::vector<const float*> pointers;
    for (int i = 0; i < n_leaves; ++i) pointers.push_back(leaf_sums.data() + i * m * n);
    std::vector<float> expected(static_cast<size_t>(m * n));
    sum_tree(make_tree_plan(n_leaves, n_leaves), pointers.data(), expected.data(), m * n);
    EXPECT_EQ(expected, sum_nodes({{0, static_cast<int16_t>(n_leaves)}}))
        << encoding_text(encoding);
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t column = 0; column < n; ++column) {
        double want = 0;
        double size = 0;
        for (size_t leaf = 0; leaf < plain.size(); ++leaf) {
          const auto [s, a] = dot(in, row, plain[leaf], column, in.spans[leaf].column);
          want += s;
          size += a;
        }
        ASSERT_NEAR(expected[static_cast<size_t>(row * n + column)], want, 1e-6 * (size + 1))
            << encoding_text(encoding);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, LinearTest, testing::ValuesIn(runnable_kernels()), kernels_name);

}  // namespace
}  // namespace trireme::test
