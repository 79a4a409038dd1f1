#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "kernels/int_math.h"
#include "kernels/leaf_tree.h"
#include "kernels/tensor.h"

namespace trireme {

// Elements [begin, end) of a message.
struct ElementRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// One cache line of floats: ranges start on such multiples so that ranks never share a line.
constexpr int64_t kRangeStep = 16;

// The elements of an n-element piece that `rank` sums; may be empty for the last ranks.
inline ElementRange slice_of(int64_t n, int rank, int n_ranks) {
  const int64_t per_rank = round_up(div_ceil(n, int64_t{n_ranks}), kRangeStep);
  const int64_t begin = std::min(n, rank * per_rank);
  return {begin, std::min(n, begin + per_rank)};
}

inline int max_nodes_per_rank(const TreePlan& plan, int n_ranks) {
  int most = 0;
  for (int rank = 0; rank < n_ranks; ++rank) most = std::max(most, plan.n_nodes_of(rank));
  return most;
}

// Elements of one piece when `n_rows` rows of it have to fit into piece_bytes.
inline int64_t piece_elements(size_t piece_bytes, int n_rows) {
  const int64_t fit = static_cast<int64_t>(piece_bytes / sizeof(float)) / n_rows;
  const int64_t n = fit / kRangeStep * kRangeStep;
  TRIREME_CHECK_MSG(n >= kRangeStep, "piece_bytes is too small for the subtrees of one rank");
  return n;
}

// One piece of an all-reduce: `elements` of every partial.
struct ReducePiece {
  const TreePlan& plan;
  const float* partials;  // [plan.n_nodes_of(rank), n_elements]
  float* out;             // [n_elements]
  int64_t n_elements;
  ElementRange elements;
};

// Where the partial of each of plan.nodes lies, for sum_tree.
using PartialPointers = std::array<const float*, kMaxLeaves>;

inline void check_host_dense(const Tensor& tensor) {
  TRIREME_CHECK(tensor.device.kind == DeviceKind::kCpu);
  TRIREME_CHECK(tensor.is_dense());
}

// partials: [plan.n_nodes_of(rank), n_elements...] float32; out: n_elements float32.
inline void check_all_reduce(const TreePlan& plan, int rank, int size, const Tensor& partials,
                             const Tensor& out) {
  check_host_dense(partials);
  check_host_dense(out);
  TRIREME_CHECK(partials.dtype == DType::kF32 && out.dtype == DType::kF32);
  TRIREME_CHECK(plan.first_node.size() == static_cast<size_t>(size) + 1);
  TRIREME_CHECK(plan.n_nodes() <= kMaxLeaves);
  TRIREME_CHECK(partials.dim(0) == plan.n_nodes_of(rank));
  TRIREME_CHECK(out.n_elements() == partials.row_size());
  TRIREME_CHECK(size == 1 || out.data != partials.data);
}

// out: [size, in's elements].
inline void check_all_gather(int size, const Tensor& out, const Tensor& in) {
  check_host_dense(out);
  check_host_dense(in);
  TRIREME_CHECK(out.dtype == in.dtype);
  TRIREME_CHECK(out.n_elements() == size * in.n_elements());
}

// The one-rank case of every collective; in and out may be the same memory.
inline void copy_tensor(const Tensor& out, const Tensor& in) {
  if (out.data != in.data && in.size_bytes() > 0) {
    std::memcpy(out.data, in.data, in.size_bytes());
  }
}

}  // namespace trireme
