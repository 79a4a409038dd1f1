#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace trireme {
namespace {

TEST(ThreadPool, EveryIndexOnceWhateverTheThreads) {
  for (const int n_threads : {1, 2, 5}) {
    ThreadPool pool(n_threads);
    EXPECT_EQ(pool.n_threads(), n_threads);
    for (int job = 0; job < 300; ++job) {
      const int64_t n = job % 37;
      std::vector<int> hits(static_cast<size_t>(n), 0);
      parallel_for(&pool, n, 1 + job % 5, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (const int h : hits) ASSERT_EQ(h, 1);
    }
  }
}

}  // namespace
}  // namespace trireme
