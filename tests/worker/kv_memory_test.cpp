#include "worker/kv_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/buffer.h"

namespace trireme {
namespace {

constexpr uint64_t kBytes = 64 << 10;

// A coordinator's memory, and the ranks that use it one after another.
class KvMemoryTest : public ::testing::Test {
 protected:
  MemoryAddress address() const { return memory_address(fd_.get()); }

  // A rank, in a process of its own as real ones are, that fills the pool and ends by `end`.
  template <typename End>
  void run_rank(const End& end, bool keep = false) {
    const pid_t pid = fork();
    if (pid == 0) {
      KvMemory memory(address(), "content");
      const int fd = memory.prepare(kBytes, 7, keep);
      const Buffer pool(kBytes, {}, "the test", fd, KvMemory::kOffset);
      std::memset(pool.data(), 42, kBytes);
      end();
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
  }

  UniqueFd fd_{memfd_create("test", MFD_CLOEXEC)};
};

TEST_F(KvMemoryTest, IsThereForTheNextRank) {
  EXPECT_EQ(KvMemory(address(), "content").n_kept_blocks(), 0) << "nobody was there yet";
  run_rank([] { raise(SIGKILL); });
  KvMemory memory(address(), "content");
  ASSERT_EQ(memory.n_kept_blocks(), 7);
  const int fd = memory.prepare(kBytes, 7, /*keep=*/true);
  const Buffer pool(kBytes, {}, "the test", fd, KvMemory::kOffset);
  EXPECT_EQ(static_cast<const char*>(pool.data())[0], 42);
  EXPECT_EQ(static_cast<const char*>(pool.data())[kBytes - 1], 42);
}

TEST_F(KvMemoryTest, IsZeroedUnlessKept) {
  run_rank([] { raise(SIGKILL); });
  KvMemory memory(address(), "content");
  const int fd = memory.prepare(2 * kBytes, 9, /*keep=*/false);
  const Buffer pool(2 * kBytes, {}, "the test", fd, KvMemory::kOffset);
  EXPECT_EQ(static_cast<const char*>(pool.data())[0], 0);
  EXPECT_EQ(static_cast<const char*>(pool.data())[kBytes - 1], 0);
  EXPECT_EQ(KvMemory(address(), "content").n_kept_blocks(), 9);
}

TEST_F(KvMemoryTest, IsNotTrustedAfterARanksOwnCrash) {
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) {
    SCOPED_TRACE(signal);
    run_rank([signal] { raise(signal); });
    EXPECT_EQ(KvMemory(address(), "content").n_kept_blocks(), 0);
    run_rank([] { raise(SIGTERM); });
    EXPECT_EQ(KvMemory(address(), "content").n_kept_blocks(), 7);
  }
}

TEST_F(KvMemoryTest, OtherContentIsOfNoUse) {
  run_rank([] { raise(SIGKILL); });
  EXPECT_EQ(KvMemory(address(), "other numerics").n_kept_blocks(), 0);
  ASSERT_EQ(ftruncate(fd_.get(), static_cast<off_t>(KvMemory::kOffset + kBytes / 2)), 0);
  EXPECT_EQ(KvMemory(address(), "content").n_kept_blocks(), 0) << "not all of it is there";
}

TEST_F(KvMemoryTest, OutOfReachMeansNone) {
  MemoryAddress wrong = address();
  wrong.inode += 1;
  for (const MemoryAddress& none : {MemoryAddress{}, wrong}) {
    KvMemory memory(none, "content");
    EXPECT_EQ(memory.n_kept_blocks(), 0);
    EXPECT_EQ(memory.prepare(kBytes, 7, false), -1);
  }
}

}  // namespace
}  // namespace trireme
