#include <cmath>

#include "kernels/thread_pool.h"
#include "tests/kernels/kernel_fixture.h"

namespace trireme::test {
namespace {

struct Case {
  int64_t m;
  int32_t n;
  int32_t k;
};

class LinearTest : public KernelTest {};

std::vector<double> reference(const std::vector<float>& x, const std::vector<float>& w, int64_t m,
                              int32_t n, int32_t k) {
  std::vector<double> out(static_cast<size_t>(m) * static_cast<size_t>(n));
  for (int64_t i = 0; i < m; ++i) {
    for (int32_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int32_t p = 0; p < k; ++p) {
        sum += static_cast<double>(x[static_cast<size_t>(i * k + p)]) *
               static_cast<double>(
                   w[static_cast<size_t>(j) * static_cast<size_t>(k) + static_cast<size_t>(p)]);
      }
      out[static_cast<size_t>(i * n + j)] = sum;
    }
  }
  return out;
}

TEST_P(LinearTest, MatchesReferenceForEveryShape) {
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
    for (const Case c : {Case{1, 16, 2},
                         {1, 8, 7},
                         {2, 100, 64},
                         {5, 64, 33},
                         {7, 200, 96},
                         {13, 65, 256},
                         {31, 129, 40}}) {
      const auto x = random_bf16_floats(static_cast<size_t>(c.m * c.k));
      const auto w = random_bf16_floats(static_cast<size_t>(c.n) * static_cast<size_t>(c.k));
      PackedBlock packed = pack_rows(w, c.n, c.k, c.k, format);
      packed.bias = random_floats(static_cast<size_t>(n_padded(c.n)));
      point_block(packed);
      const Weight weight{default_encoding(format), {}, {&packed.block, 1}, c.n, c.k};
      GemmInput in = gemm_input(x, c.m, c.k, format);
      std::vector<float> out(static_cast<size_t>(c.m * c.n), NAN);
      kernels().linear({}, make_tensor(out.data(), DType::kF32, {c.m, c.n}), in.tensor, weight);
      const auto expected = reference(x, w, c.m, c.n, c.k);
      for (size_t i = 0; i < out.size(); ++i) {
        const double want =
            expected[i] + static_cast<double>(packed.bias[i % static_cast<size_t>(c.n)]);
        ASSERT_NEAR(out[i], want, 1e-4 * std::sqrt(c.k)) << c.m << "x" << c.n << "x" << c.k;
      }
    }
  }
}

// A row's bits must not depend on how many rows are computed with it, nor on the threads.
TEST_P(LinearTest, RowBitsDoNotDependOnTheBatchOrThreads) {
  ThreadPool pool(3);
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
    const int32_t n = 150;
    const int32_t k = 222;
    const int64_t m = 19;
    const auto x = random_floats(static_cast<size_t>(m * k));
    const auto w = random_floats(static_cast<size_t>(n) * static_cast<size_t>(k));
    PackedBlock packed = pack_rows(w, n, k, k, format);
    point_block(packed);
    const Weight weight{default_encoding(format), {}, {&packed.block, 1}, n, k};
    GemmInput in = gemm_input(x, m, k, format);
    std::vector<float> all(static_cast<size_t>(m * n));
    kernels().linear({{}, &pool, nullptr}, make_tensor(all.data(), DType::kF32, {m, n}), in.tensor,
                     weight);
    for (int64_t begin = 0; begin < m; ++begin) {
      for (int64_t count = 1; begin + count <= m; count += 3) {
        Tensor part = in.tensor;
        part.data = static_cast<char*>(part.data) +
                    begin * part.row_stride * static_cast<int64_t>(dtype_size(part.dtype));
        part.shape[0] = count;
        std::vector<float> out(static_cast<size_t>(count * n));
        kernels().linear({}, make_tensor(out.data(), DType::kF32, {count, n}), part, weight);
        ASSERT_EQ(0, std::memcmp(out.data(), all.data() + begin * n, out.size() * sizeof(float)));
      }
    }
  }
}

// Column blocks (heads, leaves, vocabulary chunks) give each column the bits it has in one block.
TEST_P(LinearTest, ColumnBlocksGiveTheSameBits) {
  const WeightFormat format = WeightFormat::kBF16;
  const int32_t n = 88;
  const int32_t k = 64;
  const auto x = random_floats(static_cast<size_t>(3 * k));
  const auto w = random_floats(static_cast<size_t>(n * k));
  GemmInput in = gemm_input(x, 3, k, format);
  const auto compute = [&](const std::vector<int32_t>& cuts) {
    std::vector<PackedBlock> packed;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const std::vector<float> rows(w.begin() + cuts[i] * k, w.begin() + cuts[i + 1] * k);
      packed.push_back(pack_rows(rows, cuts[i + 1] - cuts[i], k, k, format));
      packed.back().block.out_begin = cuts[i];
    }
    std::vector<WeightBlock> blocks;
    for (PackedBlock& p : packed) {
      point_block(p);
      blocks.push_back(p.block);
    }
    std::vector<float> out(static_cast<size_t>(3 * n), NAN);
    kernels().linear({}, make_tensor(out.data(), DType::kF32, {3, n}), in.tensor,
                     {default_encoding(format), {}, blocks, n, k});
    return out;
  };
  const auto whole = compute({0, n});
  EXPECT_EQ(whole, compute({0, 8, 16, 24, n}));
  EXPECT_EQ(whole, compute({0, 40, 64, n}));
}

// A rank's subtree sums are what the whole tree adds up from leaf by leaf.
TEST_P(LinearTest, TreeSumsLeavesInTreeOrder) {
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16}) {
    const int32_t n = 72;
    const std::vector<int32_t> leaf_k = {32, 32, 64, 32, 40, 8, 18};
    const auto n_leaves = static_cast<int>(leaf_k.size());
    int32_t k = 0;
    for (const int32_t part : leaf_k) k += part;
    const int64_t m = 9;
    const auto x = random_floats(static_cast<size_t>(m * k));
    const auto w = random_floats(static_cast<size_t>(n * k));
    GemmInput in = gemm_input(x, m, k, format);
    std::vector<PackedBlock> packed;
    std::vector<WeightBlock> blocks;
    int32_t begin = 0;
    for (const int32_t part : leaf_k) {
      const std::vector<float> rows(w.begin() + begin, w.end());
      packed.push_back(pack_rows(rows, n, part, k, format));
      packed.back().block.k_begin = begin;
      begin += part;
    }
    for (PackedBlock& p : packed) {
      point_block(p);
      blocks.push_back(p.block);
    }
    const Weight weight{default_encoding(format), {}, blocks, n, k};
    const auto sum_nodes = [&](const std::vector<TreeNode>& nodes) {
      std::vector<float> out(nodes.size() * static_cast<size_t>(m * n), NAN);
      kernels().linear_tree(
          {}, make_tensor(out.data(), DType::kF32, {static_cast<int64_t>(nodes.size()), m, n}),
          in.tensor, weight, 0, nodes);
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
    TreePlan plan = make_tree_plan(n_leaves, n_leaves);
    sum_tree(plan, pointers.data(), expected.data(), m * n);
    EXPECT_EQ(expected, sum_nodes({{0, static_cast<int16_t>(n_leaves)}}));
    const auto exact = reference(x, w, m, n, k);
    for (size_t i = 0; i < exact.size(); ++i) {
      ASSERT_NEAR(expected[i], exact[i], format == WeightFormat::kF32 ? 1e-3 : 0.6);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, LinearTest, testing::ValuesIn(runnable_kernels()), kernels_name);

}  // namespace
}  // namespace trireme::test
