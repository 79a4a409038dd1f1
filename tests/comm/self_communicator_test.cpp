#include "comm/self_communicator.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/comm/collective_checks.h"

namespace trireme::test {
namespace {

TEST(SelfCommunicator, PassesTheChecksOfEveryCommunicator) {
  SelfCommunicator comm;
  EXPECT_EQ(comm.rank(), 0);
  EXPECT_EQ(comm.size(), 1);
  EXPECT_NO_THROW(check_communicator(comm, 4096));
}

TEST(SelfCommunicator, OutMayBeThePartialItself) {
  SelfCommunicator comm;
  std::vector<float> data{1.5F, -2.25F, 3.0F};
  const Tensor partials = make_tensor(data.data(), DType::kF32, {1, 3});
  comm.all_reduce_tree({}, make_tree_plan(5, 1), partials,
                       make_tensor(data.data(), DType::kF32, {3}));
  EXPECT_EQ(data, (std::vector<float>{1.5F, -2.25F, 3.0F}));
}

TEST(SelfCommunicator, ThrowsAfterAbort) {
  SelfCommunicator comm;
  comm.abort();
  EXPECT_THROW(check_all_reduce_tree(comm, {3, 10, 1}), CommError);
  EXPECT_THROW(check_all_gather(comm, 10, 1), CommError);
}

}  // namespace
}  // namespace trireme::test
