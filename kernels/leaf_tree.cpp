#include "kernels/leaf_tree.h"

#include <algorithm>
#include <array>

namespace trireme {
namespace {

void collect_subtrees(int node_begin, int node_end, int begin, int end,
                      std::vector<TreeNode>& out) {
  if (node_end <= begin || end <= node_begin) return;
  if (begin <= node_begin && node_end <= end) {
    out.push_back({static_cast<int16_t>(node_begin), static_cast<int16_t>(node_end)});
    return;
  }
  const int split = tree_split(node_begin, node_end);
  collect_subtrees(node_begin, split, begin, end, out);
  collect_subtrees(split, node_end, begin, end, out);
}

// Elements summed at a time: the intermediate sums of a whole tree stay in the first-level cache.
constexpr int64_t kSumChunk = 512;
using Chunk = std::array<float, kSumChunk>;

// out = a + b; out may be a. A fixed count lets the compiler vectorise without a tail.
void add_chunk(const float* a, const float* b, float* out, int64_t n) {
  if (n == kSumChunk) {
    for (int64_t i = 0; i < kSumChunk; i += 8) {
      std::array<float, 8> sum;
      for (size_t j = 0; j < sum.size(); ++j) sum[j] = a[i + static_cast<int64_t>(j)];
      for (size_t j = 0; j < sum.size(); ++j) sum[j] += b[i + static_cast<int64_t>(j)];
      std::copy(sum.begin(), sum.end(), out + i);
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

// Sums one chunk of elements, from `offset`, over the leaves of a subtree after another.
class ChunkSum {
 public:
  ChunkSum(const TreePlan& plan, const float* const* partials, int64_t offset, int64_t n)
      : plan_(plan), partials_(partials), offset_(offset), n_(n) {}

  // The sum over the leaves [begin, end): either a partial itself, or in `scratch`.
  const float* sum(int begin, int end, float* scratch) {
    TRIREME_CHECK_MSG(next_ < plan_.n_nodes(), "the ranks' subtrees do not cover the tree");
    const TreeNode node = plan_.nodes[static_cast<size_t>(next_)];
    if (node.begin == begin && node.end == end) return partials_[next_++] + offset_;
    TRIREME_CHECK_MSG(end - begin > 1, "the ranks' subtrees do not tile the tree");
    Chunk right_scratch;
    const int split = tree_split(begin, end);
    const float* left = sum(begin, split, scratch);
    const float* right = sum(split, end, right_scratch.data());
    add_chunk(left, right, scratch, n_);
    return scratch;
  }

  bool used_every_node() const { return next_ == plan_.n_nodes(); }

 private:
  const TreePlan& plan_;
  const float* const* partials_;
  int64_t offset_;
  int64_t n_;
  int next_ = 0;
};

}  // namespace

std::vector<TreeNode> owned_subtrees(int n_leaves, int begin, int end) {
  TRIREME_CHECK(n_leaves >= 1 && begin >= 0 && begin <= end && end <= n_leaves);
  std::vector<TreeNode> out;
  if (begin < end) collect_subtrees(0, n_leaves, begin, end, out);
  return out;
}

TreePlan make_tree_plan(int n_leaves, int n_ranks) {
  TRIREME_CHECK(n_ranks >= 1 && n_ranks <= n_leaves);
  TreePlan plan;
  plan.n_leaves = n_leaves;
  plan.first_node.push_back(0);
  for (int rank = 0; rank < n_ranks; ++rank) {
    for (const TreeNode& node : owned_subtrees(n_leaves, first_leaf(n_leaves, rank, n_ranks),
                                               first_leaf(n_leaves, rank + 1, n_ranks))) {
      plan.nodes.push_back(node);
    }
    plan.first_node.push_back(plan.n_nodes());
  }
  return plan;
}

void sum_tree(const TreePlan& plan, const float* const* partials, float* out, int64_t n_elements) {
  TRIREME_CHECK(plan.n_nodes() >= 1);
  for (int64_t offset = 0; offset < n_elements; offset += kSumChunk) {
    const int64_t n = std::min(kSumChunk, n_elements - offset);
    ChunkSum chunk(plan, partials, offset, n);
    const float* result = chunk.sum(0, plan.n_leaves, out + offset);
    TRIREME_CHECK(chunk.used_every_node());
    if (result != out + offset) std::copy_n(result, n, out + offset);
  }
}

}  // namespace trireme
