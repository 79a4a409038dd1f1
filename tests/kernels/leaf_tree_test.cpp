#include "kernels/leaf_tree.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

namespace trireme::test {
namespace {

// Whether [begin, end) is a node of the tree over [node_begin, node_end), from the definition.
bool is_tree_node(int node_begin, int node_end, int begin, int end) {
  if (node_begin == begin && node_end == end) return true;
  if (node_end - node_begin <= 1) return false;
  const int split = node_begin + (node_end - node_begin) / 2;
  return end <= split ? is_tree_node(node_begin, split, begin, end)
                      : begin >= split && is_tree_node(split, node_end, begin, end);
}

float scalar_sum(const std::vector<std::vector<float>>& leaves, int begin, int end, size_t i) {
  if (end - begin == 1) return leaves[static_cast<size_t>(begin)][i];
  const int split = begin + (end - begin) / 2;
  return scalar_sum(leaves, begin, split, i) + scalar_sum(leaves, split, end, i);
}

std::vector<std::vector<float>> random_leaves(int n_leaves, size_t n_elements, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> value(-1.0F, 1.0F);
  std::uniform_int_distribution<int> exponent(-12, 12);
  std::vector<std::vector<float>> out(static_cast<size_t>(n_leaves));
  for (auto& leaf : out) {
    for (size_t i = 0; i < n_elements; ++i)
      leaf.push_back(std::ldexp(value(random), exponent(random)));
  }
  return out;
}

TEST(LeafTree, OwnedSubtreesTileTheRangeWithTheLargestNodes) {
  for (int n_leaves = 1; n_leaves <= kMaxLeaves; ++n_leaves) {
    for (int begin = 0; begin <= n_leaves; ++begin) {
      for (int end = begin; end <= n_leaves; ++end) {
        const std::vector<TreeNode> nodes = owned_subtrees(n_leaves, begin, end);
        int next = begin;
        for (const TreeNode& node : nodes) {
          EXPECT_EQ(node.begin, next);
          EXPECT_TRUE(is_tree_node(0, n_leaves, node.begin, node.end));
          next = node.end;
        }
        EXPECT_EQ(next, end);
        // Two neighbours that form a node would have been one.
        for (size_t i = 1; i < nodes.size(); ++i) {
          EXPECT_FALSE(is_tree_node(0, n_leaves, nodes[i - 1].begin, nodes[i].end) &&
                       tree_split(nodes[i - 1].begin, nodes[i].end) == nodes[i].begin);
        }
      }
    }
  }
}

TEST(LeafTree, PlansTileTheLeavesForEveryNumberOfRanks) {
  for (int n_leaves = 1; n_leaves <= kMaxLeaves; ++n_leaves) {
    for (int n_ranks = 1; n_ranks <= n_leaves; ++n_ranks) {
      const TreePlan plan = make_tree_plan(n_leaves, n_ranks);
      ASSERT_EQ(plan.first_node.size(), static_cast<size_t>(n_ranks) + 1);
      EXPECT_EQ(plan.first_node.back(), plan.n_nodes());
      for (int rank = 0; rank < n_ranks; ++rank) {
        EXPECT_GE(plan.n_nodes_of(rank), 1);
        const auto first = static_cast<size_t>(plan.first_node[static_cast<size_t>(rank)]);
        EXPECT_EQ(plan.nodes[first].begin, first_leaf(n_leaves, rank, n_ranks));
      }
      EXPECT_EQ(plan.nodes.front().begin, 0);
      EXPECT_EQ(plan.nodes.back().end, n_leaves);
    }
  }
}

TEST(LeafTree, OneRankOwnsTheWholeTree) {
  const TreePlan plan = make_tree_plan(13, 1);
  ASSERT_EQ(plan.n_nodes(), 1);
  EXPECT_EQ(plan.nodes[0], (TreeNode{0, 13}));
}

TEST(LeafTree, SumsAreTheSameBitsForEveryNumberOfRanks) {
  for (int n_leaves = 1; n_leaves <= kMaxLeaves; ++n_leaves) {
    for (size_t n : {size_t{1}, size_t{7}, size_t{511}, size_t{512}, size_t{513}, size_t{1500}}) {
      const auto leaves = random_leaves(n_leaves, n, static_cast<uint32_t>(n_leaves));
      for (int n_ranks = 1; n_ranks <= n_leaves; ++n_ranks) {
        const TreePlan plan = make_tree_plan(n_leaves, n_ranks);
        std::vector<std::vector<float>> partials;
        std::vector<const float*> pointers;
        for (const TreeNode& node : plan.nodes) {
          auto& partial = partials.emplace_back();
          for (size_t i = 0; i < n; ++i) {
            partial.push_back(scalar_sum(leaves, node.begin, node.end, i));
          }
        }
        for (const auto& partial : partials) pointers.push_back(partial.data());
        std::vector<float> out(n, -1.0F);
        sum_tree(plan, pointers.data(), out.data(), static_cast<int64_t>(n));
        for (size_t i = 0; i < n; ++i) {
          const float expected = scalar_sum(leaves, 0, n_leaves, i);
          ASSERT_EQ(std::memcmp(&out[i], &expected, sizeof expected), 0)
              << n_leaves << " leaves, " << n_ranks << " ranks, element " << i;
        }
      }
    }
  }
}

// Guards the tests themselves: with this data, another order of summation gives other bits.
TEST(LeafTree, TheDataTellsOrdersApart) {
  const auto leaves = random_leaves(16, 100, 5);
  int n_different = 0;
  for (size_t i = 0; i < 100; ++i) {
    float in_order = 0;
    for (const auto& leaf : leaves) in_order += leaf[i];
    n_different += in_order != scalar_sum(leaves, 0, 16, i) ? 1 : 0;
  }
  EXPECT_GT(n_different, 50);
}

TEST(LeafTree, SumOfNoElementsWritesNothing) {
  const TreePlan plan = make_tree_plan(2, 2);
  const float value = 1;
  const float* const partials[] = {&value, &value};
  float out = 42;
  sum_tree(plan, partials, &out, 0);
  EXPECT_EQ(out, 42);
}

}  // namespace
}  // namespace trireme::test
