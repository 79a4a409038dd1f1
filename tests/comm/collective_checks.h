#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "comm/communicator.h"

namespace trireme::test {

// What a rank found wrong; thrown so that threads, child processes and MPI ranks can share checks.
class CheckFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct ReduceCase {
  int n_leaves = 1;
  int64_t n_elements = 1;
  uint32_t seed = 0;
};

// Random leaves whose sums depend on the order: magnitudes differ by up to 2^20.
float leaf_value(uint32_t seed, int leaf, int64_t element);

// The tree sum of [begin, end) of one element, straight from its definition.
float reference_tree_sum(uint32_t seed, int begin, int end, int64_t element);

// Cases that cover uneven trees, one element, odd sizes and several pieces, for n_ranks ranks.
std::vector<ReduceCase> reduce_cases(int n_ranks);

// Each is collective over comm's ranks and throws CheckFailed when a byte differs from a scalar
// reference. The reference does not know the number of ranks, so all layouts agree with each other.
void check_all_reduce_tree(Communicator& comm, const ReduceCase& c);
void check_all_gather(Communicator& comm, int64_t n_elements, uint32_t seed);
// Every ordered pair of ranks, messages of several sizes, order kept.
void check_send_recv(Communicator& comm, size_t max_message_bytes, uint32_t seed);
// Every rank sends two messages of the largest size to every other one before any receives.
void check_two_messages_fit(Communicator& comm, size_t max_message_bytes, uint32_t seed);

// All of the above on one communicator.
void check_communicator(Communicator& comm, size_t max_message_bytes);

}  // namespace trireme::test
