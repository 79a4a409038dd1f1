#include "kernels/cpu_topology.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <numeric>
#include <thread>

namespace trireme {
namespace {

using Ids = std::vector<int>;

Ids count_up(int n) {
  Ids ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

// Two nodes of 6 cores, two processors each, numbered as most firmware does: first processors
// 0-5 and 6-11, second ones 12-17 and 18-23.
std::vector<Cpu> two_nodes() {
  TopologyText text;
  text.node_cpus = {{0, "0-5,12-17\n"}, {1, "6-11,18-23\n"}};
  for (int i = 0; i < 12; ++i) {
    const std::string pair = std::to_string(i) + "," + std::to_string(i + 12) + "\n";
    text.siblings[i] = pair;
    text.siblings[i + 12] = pair;
  }
  return order_cpus(count_up(24), text);
}

std::vector<Cpu> plain_cores(int n) { return order_cpus(count_up(n), {}); }

TEST(CpuTopology, ReadsTheKernelsLists) {
  EXPECT_EQ(parse_cpu_list("0-3,8,10-11\n"), (Ids{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_EQ(parse_cpu_list("5"), Ids{5});
  EXPECT_EQ(parse_cpu_list(""), Ids{});
  EXPECT_EQ(parse_cpu_list("\n"), Ids{});
  EXPECT_EQ(parse_cpu_list("3-1"), Ids{});
  EXPECT_EQ(parse_cpu_list("1,x,2"), (Ids{1}));
  EXPECT_LE(parse_cpu_list("0-99999999999").size(), 8192U);
}

TEST(CpuTopology, ReadsTheLimitOfAControlGroup) {
  EXPECT_EQ(parse_cpu_max("max 100000\n"), 0);
  EXPECT_EQ(parse_cpu_max("200000 100000\n"), 2);
  EXPECT_EQ(parse_cpu_max("150000 100000\n"), 2);
  EXPECT_EQ(parse_cpu_max("50000 100000"), 1);
  EXPECT_EQ(parse_cpu_max("9223372036854775807 100000"), 8192);
  EXPECT_EQ(parse_cpu_max("100000 9223372036854775807"), 1);
  EXPECT_EQ(parse_cpu_max("-1 100000"), 0);
  EXPECT_EQ(parse_cpu_max("99999999999999999999 100000"), 0);
  EXPECT_EQ(parse_cpu_max(""), 0);
  EXPECT_EQ(parse_cpu_max("100000"), 0);
}

TEST(CpuTopology, OrdersByNodeCoreAndSibling) {
  const std::vector<Cpu> cpus = two_nodes();
  ASSERT_EQ(cpus.size(), 24U);
  EXPECT_EQ(cpus[0], (Cpu{.id = 0, .node = 0, .core = 0, .sibling = 0}));
  EXPECT_EQ(cpus[1], (Cpu{.id = 12, .node = 0, .core = 0, .sibling = 1}));
  EXPECT_EQ(cpus[2].id, 1);
  EXPECT_EQ(cpus[12], (Cpu{.id = 6, .node = 1, .core = 6, .sibling = 0}));
}

TEST(CpuTopology, ACoreWhoseFirstProcessorIsNotOursCountsByItsSecond) {
  const std::vector<Cpu> cpus = order_cpus({1, 2, 3}, {{}, {{1, "0-1"}, {2, "2-3"}, {3, "2-3"}}});
  EXPECT_EQ(cpus[0], (Cpu{.id = 1, .core = 0, .sibling = 0}));
  EXPECT_EQ(cpus[2], (Cpu{.id = 3, .core = 2, .sibling = 1}));
  EXPECT_EQ(default_threads(cpus, 0, 1), 2);
}

TEST(CpuTopology, ThreadsAreCoresOverShares) {
  EXPECT_EQ(default_threads(two_nodes(), 0, 1), 12);
  EXPECT_EQ(default_threads(two_nodes(), 0, 5), 2);
  EXPECT_EQ(default_threads(two_nodes(), 0, 100), 1);
  EXPECT_EQ(default_threads(two_nodes(), 3, 1), 3);
  EXPECT_EQ(default_threads(two_nodes(), 3, 2), 1);
}

TEST(CpuTopology, SharesAreWholeNodesWhereTheyCanBe) {
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {0, 2}, 6), (Ids{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {1, 2}, 6), (Ids{6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {2, 4}, 3), (Ids{6, 7, 8}));
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {0, 1}, 12), count_up(12));
  // Fewer threads than a share has cores: the pool uses the whole set.
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {1, 2}, 2), (Ids{6, 7, 8, 9, 10, 11}));
  // One share, few threads: still one node.
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {0, 1}, 4), (Ids{0, 1, 2, 3, 4, 5}));
}

TEST(CpuTopology, EqualSlicesThatWouldStraddleArePackedIntoNodes) {
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {0, 3}, 3), (Ids{0, 1, 2}));
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {1, 3}, 3), (Ids{3, 4, 5}));
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {2, 3}, 3), (Ids{6, 7, 8}));
  // 3 shares of 4 need all cores: the second one lies in both nodes.
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {1, 3}, 4), (Ids{4, 5, 6, 7}));
}

TEST(CpuTopology, SecondProcessorsOnlyWhenCoresRunOut) {
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {0, 4}, 5), (Ids{0, 12, 1, 13, 2, 14}));
  EXPECT_EQ(cpus_of_share(two_nodes(), 0, {3, 4}, 6), (Ids{9, 21, 10, 22, 11, 23}));
}

TEST(CpuTopology, NothingIsBoundWhereThreadsOutnumberProcessors) {
  EXPECT_EQ(cpus_of_share(plain_cores(2), 0, {0, 4}, 2), Ids{});
  EXPECT_EQ(cpus_of_share(plain_cores(2), 0, {1, 2}, 1), Ids{1});
  EXPECT_EQ(cpus_of_share(plain_cores(8), 2, {0, 1}, 2), Ids{});  // the quota of a container
  EXPECT_EQ(cpus_of_share(plain_cores(2), 2, {0, 1}, 2), (Ids{0, 1}));
}

TEST(CpuTopology, SharesNeverOverlap) {
  for (const auto& cpus : {two_nodes(), plain_cores(16)}) {
    for (int count = 1; count <= 24; ++count) {
      for (int n_threads = 1; n_threads <= 24; ++n_threads) {
        std::vector<int> users(24, 0);
        for (int i = 0; i < count; ++i) {
          const Ids ids = cpus_of_share(cpus, 0, {i, count}, n_threads);
          EXPECT_TRUE(ids.empty() || ids.size() >= static_cast<size_t>(n_threads));
          for (const int id : ids) ++users[static_cast<size_t>(id)];
        }
        for (const int n : users) ASSERT_LE(n, 1) << count << " x " << n_threads;
      }
    }
  }
}

TEST(CpuTopology, BindsTheCallingThread) {
  const std::vector<Cpu> cpus = available_cpus();
  ASSERT_FALSE(cpus.empty());
  std::thread([&] {
    bind_this_thread({cpus.back().id});
    const std::vector<Cpu> left = available_cpus();
    ASSERT_EQ(left.size(), 1U);
    EXPECT_EQ(left[0].id, cpus.back().id);
    bind_this_thread({});
    EXPECT_EQ(available_cpus().size(), 1U);
  }).join();
  EXPECT_EQ(available_cpus(), cpus);
}

}  // namespace
}  // namespace trireme
