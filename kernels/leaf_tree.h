#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/check.h"

namespace trireme {

// The fixed summation tree (ARCHITECTURE.md, Numerics): sum(a, b) over the leaves a..b-1 splits at
// a + floor((b - a) / 2). Every layout adds in this order, so every layout gets the same bits.
constexpr int tree_split(int begin, int end) { return begin + (end - begin) / 2; }

// A whole subtree: the leaves [begin, end).
struct TreeNode {
  int16_t begin = 0;
  int16_t end = 0;
  int n_leaves() const { return end - begin; }
  bool operator==(const TreeNode&) const = default;
};

constexpr int kMaxLeaves = 16;

// The largest whole subtrees of the tree over n_leaves that lie inside [begin, end), left to right.
// A rank that owns these leaves sums each of them alone.
std::vector<TreeNode> owned_subtrees(int n_leaves, int begin, int end);

// First leaf of rank `rank` when n_leaves are spread over n_ranks: floor(rank * n_leaves /
// n_ranks).
constexpr int first_leaf(int n_leaves, int rank, int n_ranks) { return rank * n_leaves / n_ranks; }

// Which subtrees each rank of a tensor-parallel group brings to an all-reduce, in leaf order.
struct TreePlan {
  int n_leaves = 0;
  std::vector<TreeNode> nodes;      // all ranks' subtrees, left to right: [n_nodes]
  std::vector<int32_t> first_node;  // rank r brings nodes [first_node[r], first_node[r + 1])

  int n_nodes() const { return static_cast<int>(nodes.size()); }
  int n_nodes_of(int rank) const {
    return first_node[static_cast<size_t>(rank) + 1] - first_node[static_cast<size_t>(rank)];
  }
};

TreePlan make_tree_plan(int n_leaves, int n_ranks);

// Adds the subtree partials of all ranks, in tree order. partials: [n_nodes][n_elements] float32,
// in the order of plan.nodes (each a pointer to n_elements floats); out: [n_elements].
void sum_tree(const TreePlan& plan, const float* const* partials, float* out, int64_t n_elements);

}  // namespace trireme
