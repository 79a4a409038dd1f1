#include "kernels/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "kernels/cpu_topology.h"
#include "kernels/result.h"

namespace trireme {
namespace {

TEST(ThreadPool, EveryIndexOnceWhateverTheThreads) {
  for (const int n_threads : {1, 2, 5}) {
    ThreadPool pool(n_threads);
    EXPECT_EQ(pool.n_threads(), n_threads);
    for (int job = 0; job < 3000; ++job) {
      const int64_t n = job % 137;
      std::vector<int> hits(static_cast<size_t>(n), 0);
      parallel_for(&pool, n, 1 + job % 5, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (const int h : hits) ASSERT_EQ(h, 1);
    }
  }
}

TEST(ThreadPool, RangesAreMultiplesOfTheGrain) {
  ThreadPool pool(3);
  for (const int64_t n : {7, 64, 1000}) {
    parallel_for(&pool, n, 6, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(begin % 6, 0);
      EXPECT_TRUE(end == n || end % 6 == 0);
      EXPECT_LT(begin, end);
    });
  }
}

TEST(ThreadPool, MoreIndicesThanAShareCounts) {
  ThreadPool pool(2);
  const int64_t n = 1'000'003;
  std::vector<uint8_t> hits(static_cast<size_t>(n), 0);
  parallel_for(&pool, n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
  });
  for (const uint8_t h : hits) ASSERT_EQ(h, 1);
}

// Each range waits until every thread has one: a thread that was not woken would hang this.
TEST(ThreadPool, EveryThreadTakesPartAfterASleep) {
  constexpr int kThreads = 4;
  ThreadPool pool(kThreads);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::microseconds(40 * round));  // spinning, or asleep
    std::barrier all(kThreads);
    std::mutex mutex;
    std::set<std::thread::id> threads;
    parallel_for(&pool, kThreads, 1, [&](int64_t, int64_t) {
      all.arrive_and_wait();
      const std::lock_guard lock(mutex);
      threads.insert(std::this_thread::get_id());
    });
    EXPECT_EQ(threads.size(), size_t{kThreads});
  }
}

// The thread with the first range waits until all others are done: the rest of its share must go to
// the other thread.
TEST(ThreadPool, OthersFinishTheShareOfAThreadThatIsHeldUp) {
  ThreadPool pool(2);
  constexpr int64_t kIndices = 64;
  std::atomic<int64_t> n_done{0};
  std::atomic<bool> held{false};
  parallel_for(&pool, kIndices, 1, [&](int64_t begin, int64_t end) {
    n_done += end - begin;
    if (held.exchange(true)) return;
    while (n_done.load() < kIndices) std::this_thread::yield();
  });
  EXPECT_EQ(n_done.load(), kIndices);
}

TEST(ThreadPool, SeveralPoolsOnFewCores) {
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    ranks.emplace_back([] {
      ThreadPool pool(3);
      std::vector<int64_t> sums(50);
      for (int job = 0; job < 400; ++job) {
        parallel_for(&pool, 50, 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) sums[static_cast<size_t>(i)] += i;
        });
      }
      for (int64_t i = 0; i < 50; ++i) EXPECT_EQ(sums[static_cast<size_t>(i)], 400 * i);
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

// In a process of its own, since no user may start threads there any more.
TEST(ThreadPoolDeathTest, AThreadThatCannotBeStartedIsToldAndTheOthersEnd) {
  const auto start_too_many = [] {
    const rlimit one = {.rlim_cur = 1, .rlim_max = 1};
    constexpr uid_t kNobody = 65534;  // root has no such limit
    if (setrlimit(RLIMIT_NPROC, &one) != 0 || (getuid() == 0 && setuid(kNobody) != 0)) _exit(2);
    try {
      const ThreadPool pool(4);
    } catch (const EnvironmentError& error) {
      std::fprintf(stderr, "%s\n", error.what());
      _exit(0);
    }
    _exit(1);
  };
  EXPECT_EXIT(start_too_many(), testing::ExitedWithCode(0),
              "thread 2 of 4 cannot be started .*: use fewer, or raise the limit");
}

TEST(ThreadPool, BindsItsThreadsOneEachWhereThereAreAsMany) {
  const std::vector<Cpu> cpus = available_cpus();
  if (cpus.size() < 2) GTEST_SKIP() << "SKIPPED: needs two processors";
  const std::vector<int> two = {cpus[0].id, cpus[1].id};
  std::thread([&] {
    ThreadPool pool(2, two);
    EXPECT_EQ(available_cpus().size(), 1U);
    EXPECT_EQ(available_cpus()[0].id, two[0]);
    std::barrier both(2);
    std::atomic<int> bits{0};
    parallel_for(&pool, 2, 1, [&](int64_t, int64_t) {
      both.arrive_and_wait();
      bits |= available_cpus()[0].id == two[0] ? 1 : 2;
    });
    EXPECT_EQ(bits.load(), 3);
  }).join();
  std::thread([&] {
    ThreadPool pool(1, two);
    EXPECT_EQ(available_cpus().size(), 2U);
  }).join();
}

}  // namespace
}  // namespace trireme
