// A group of real processes that mpirun starts, the real one and one that hangs.
#include <gmock/gmock.h>

#include "tests/coordinator/process_group_fixture.h"

namespace trireme {
namespace {

using testing::HasSubstr;

TEST_F(ClusterProcessGroup, MpirunBringsUpAndRecoversAGroup) {
  if (system("command -v mpirun > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "SKIPPED: mpirun is not installed";
  }
  spec_.launcher = LauncherKind::kMpirun;
  serve();
  EXPECT_EQ(step(1), 2);
  uint64_t epoch = group_->epoch();
  const std::set<int64_t> first = pids_;
  ASSERT_EQ(kill(static_cast<pid_t>(capacity_.ranks[0].pid), SIGKILL), 0);
  expect_recovery(epoch);
  for (const int64_t pid : first) EXPECT_FALSE(process_exists(pid));

  // A rank that is stopped ends with the rest, although mpirun never notices that it is.
  epoch = group_->epoch();
  const std::vector<RankInfo> second = group_->ranks();
  ASSERT_EQ(kill(static_cast<pid_t>(second[0].pid), SIGSTOP), 0);
  ASSERT_EQ(kill(static_cast<pid_t>(second[1].pid), SIGKILL), 0);
  ASSERT_TRUE(run_until([this] { return n_serving_ == 3; }));
  EXPECT_GT(group_->epoch(), epoch);
  for (const RankInfo& rank : second) EXPECT_FALSE(process_exists(rank.pid));
  stop();
}

// mpirun now and then does this when a rank is killed before MPI_Init is over. Here it starts ranks
// that are killed, until one was seen.
TEST_F(ClusterProcessGroup, ALauncherThatWaitsForADeadRankIsNotWaitedFor) {
  const std::filesystem::path tools = folder_ + "_tools";
  std::filesystem::create_directory(tools);
  std::ofstream(tools / "mpirun") << "#!/bin/bash\n"
                                     "while [ \"$1\" != worker ]; do program=$1; shift; done\n"
                                     "while :; do\n"
                                     "  \"$program\" \"$@\" & rank=$!\n"
                                     "  sleep 0.2\n"
                                     "  kill -9 $rank\n"
                                     "done\n";
  std::filesystem::permissions(tools / "mpirun", std::filesystem::perms::owner_all);
  const std::string path = getenv("PATH");
  setenv("PATH", (tools.string() + ":" + path).c_str(), 1);
  setenv("FAKE_WORKER", "no-hello", 1);
  spec_.launcher = LauncherKind::kMpirun;
  start();
  EXPECT_TRUE(run_until([this] { return !broken_.empty(); }));
  EXPECT_THAT(broken_, HasSubstr("a rank ended before it dialled in, and its launcher hangs"));
  stop();
  setenv("PATH", path.c_str(), 1);
  std::filesystem::remove_all(tools);
}

TEST_F(ClusterProcessGroup, MpirunThatCannotReachAHostNamesIt) {
  if (system("command -v mpirun > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "SKIPPED: mpirun is not installed";
  }
  spec_.launcher = LauncherKind::kMpirun;
  spec_.hosts = {"no-such-host.invalid"};
  spec_.control_address = "0.0.0.0";
  start();
  ASSERT_TRUE(run_until([this] { return !broken_.empty(); }));
  EXPECT_THAT(broken_, HasSubstr("mpirun ended with status"));
  EXPECT_THAT(broken_, HasSubstr("it said: "));
}

}  // namespace
}  // namespace trireme
