#include "tests/comm/collective_checks.h"

#include <cmath>
#include <cstring>
#include <string>

namespace trireme::test {
namespace {

uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

Tensor floats(std::vector<float>& data) {
  return make_tensor(data.data(), DType::kF32, {static_cast<int64_t>(data.size())});
}

std::vector<float> message(uint32_t seed, int from, int to, size_t n) {
  std::vector<float> out(n);
  const uint32_t stream = mix(seed + static_cast<uint32_t>(from * 64 + to));
  for (size_t i = 0; i < n; ++i) out[i] = leaf_value(stream, 0, static_cast<int64_t>(i));
  return out;
}

void expect_equal(const std::vector<float>& got, const std::vector<float>& expected,
                  const std::string& what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::memcmp(&got[i], &expected[i], sizeof(float)) == 0) continue;
    throw CheckFailed(what + ": element " + std::to_string(i) + " is " + std::to_string(got[i]) +
                      ", expected " + std::to_string(expected[i]));
  }
}

std::string describe(const Communicator& comm, const char* what) {
  return std::string(what) + " on rank " + std::to_string(comm.rank()) + " of " +
         std::to_string(comm.size());
}

}  // namespace

float leaf_value(uint32_t seed, int leaf, int64_t element) {
  const uint32_t bits =
      mix(seed ^ mix(static_cast<uint32_t>(leaf) * 0x9e3779b9U + static_cast<uint32_t>(element)));
  const float unit = static_cast<float>(bits >> 8) / 16777216.0F - 0.5F;
  return std::ldexp(unit, static_cast<int>(bits % 21U) - 10);
}

float reference_tree_sum(uint32_t seed, int begin, int end, int64_t element) {
  if (end - begin == 1) return leaf_value(seed, begin, element);
  const int split = begin + (end - begin) / 2;
  return reference_tree_sum(seed, begin, split, element) +
         reference_tree_sum(seed, split, end, element);
}

std::vector<ReduceCase> reduce_cases(int n_ranks) {
  std::vector<ReduceCase> out;
  uint32_t seed = 1;
  for (int n_leaves = n_ranks; n_leaves <= kMaxLeaves; ++n_leaves) {
    for (int64_t n : {1, 15, 511, 2048}) out.push_back({n_leaves, n, seed++});
  }
  for (int n_leaves : {n_ranks, 11, 16}) {
    for (int64_t n : {20'011, 70'001}) out.push_back({n_leaves, n, seed++});
  }
  out.push_back({n_ranks, 1'100'003, seed++});  // over 4 MiB
  return out;
}

void check_all_reduce_tree(Communicator& comm, const ReduceCase& c) {
  const TreePlan plan = make_tree_plan(c.n_leaves, comm.size());
  const int n_nodes = plan.n_nodes_of(comm.rank());
  const auto n = static_cast<size_t>(c.n_elements);
  std::vector<float> partials(static_cast<size_t>(n_nodes) * n);
  for (int j = 0; j < n_nodes; ++j) {
    const int32_t first = plan.first_node[static_cast<size_t>(comm.rank())];
    const TreeNode node = plan.nodes[static_cast<size_t>(first + j)];
    for (size_t i = 0; i < n; ++i) {
      partials[static_cast<size_t>(j) * n + i] =
          reference_tree_sum(c.seed, node.begin, node.end, static_cast<int64_t>(i));
    }
  }
  std::vector<float> out(n, -1.0F);
  comm.all_reduce_tree({}, plan, make_tensor(partials.data(), DType::kF32, {n_nodes, c.n_elements}),
                       floats(out));
  std::vector<float> expected(n);
  for (size_t i = 0; i < n; ++i) {
    expected[i] = reference_tree_sum(c.seed, 0, c.n_leaves, static_cast<int64_t>(i));
  }
  expect_equal(out, expected,
               describe(comm, "all_reduce_tree") + ", " + std::to_string(c.n_leaves) + " leaves");
}

void check_all_gather(Communicator& comm, int64_t n_elements, uint32_t seed) {
  const auto n = static_cast<size_t>(n_elements);
  std::vector<float> in = message(seed, comm.rank(), 0, n);
  std::vector<float> out(n * static_cast<size_t>(comm.size()), -1.0F);
  comm.all_gather({}, make_tensor(out.data(), DType::kF32, {comm.size(), n_elements}), floats(in));
  std::vector<float> expected;
  for (int rank = 0; rank < comm.size(); ++rank) {
    const std::vector<float> part = message(seed, rank, 0, n);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  expect_equal(out, expected, describe(comm, "all_gather"));
}

void check_send_recv(Communicator& comm, size_t max_message_bytes, uint32_t seed) {
  const size_t largest = max_message_bytes / sizeof(float);
  const std::vector<size_t> sizes{1, 17, largest, 333, largest / 2 + 1};
  for (int from = 0; from < comm.size(); ++from) {
    for (int to = 0; to < comm.size(); ++to) {
      if (from == to || (comm.rank() != from && comm.rank() != to)) continue;
      for (size_t round = 0; round < 3 * sizes.size(); ++round) {
        const size_t n = sizes[round % sizes.size()];
        const uint32_t stream = seed + static_cast<uint32_t>(round);
        std::vector<float> expected = message(stream, from, to, n);
        if (comm.rank() == from) {
          comm.send({}, floats(expected), to);
        } else {
          std::vector<float> got(n, -1.0F);
          comm.recv({}, floats(got), from);
          expect_equal(got, expected, describe(comm, "recv"));
        }
      }
    }
  }
}

void check_two_messages_fit(Communicator& comm, size_t max_message_bytes, uint32_t seed) {
  const size_t n = max_message_bytes / sizeof(float);
  for (int step = 0; step < 2; ++step) {
    for (int peer = 0; peer < comm.size(); ++peer) {
      if (peer == comm.rank()) continue;
      std::vector<float> data = message(seed + static_cast<uint32_t>(step), comm.rank(), peer, n);
      comm.send({}, floats(data), peer);
      std::fill(data.begin(), data.end(), -2.0F);  // send has returned: the tensor is ours again
    }
  }
  for (int step = 0; step < 2; ++step) {
    for (int peer = 0; peer < comm.size(); ++peer) {
      if (peer == comm.rank()) continue;
      std::vector<float> got(n, -1.0F);
      comm.recv({}, floats(got), peer);
      expect_equal(got, message(seed + static_cast<uint32_t>(step), peer, comm.rank(), n),
                   describe(comm, "recv of two"));
    }
  }
}

void check_communicator(Communicator& comm, size_t max_message_bytes) {
  for (const ReduceCase& c : reduce_cases(comm.size())) check_all_reduce_tree(comm, c);
  for (int64_t n : {1, 100, 5003, 200'001}) {
    check_all_gather(comm, n, static_cast<uint32_t>(n));
  }
  check_send_recv(comm, max_message_bytes, 7);
  check_two_messages_fit(comm, max_message_bytes, 8);
  // Once more at the end: mixing the operations must not have confused their order.
  check_all_reduce_tree(comm, {comm.size(), 777, 99});
}

}  // namespace trireme::test
