#include "coordinator/cluster/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

namespace trireme {
namespace {

using testing::HasSubstr;

bool wait_until(const std::function<bool()>& done) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

Environment with_epoch(const std::string& secret, const std::string& epoch) {
  return {{"TRIREME_SECRET", secret}, {"TRIREME_EPOCH", epoch}};
}

class ClusterProcess : public testing::Test {
 protected:
  ClusterProcess() {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    out_ = UniqueFd(ends[0]);
    in_ = UniqueFd(ends[1]);
  }

  Result<Process> start(std::vector<std::string> argv, int kept_fd = -1) {
    LaunchCommand command;
    command.name = "it";
    command.argv = std::move(argv);
    command.environment = with_epoch(secret_, "3");
    command.death_signal = SIGKILL;
    return Process::start(command, in_.get(), kept_fd);
  }

  static std::string end_of(Process& process) {
    std::optional<std::string> what;
    EXPECT_TRUE(wait_until([&] { return (what = process.reap()).has_value(); }));
    return what.value_or("");
  }

  // Everything written once no process has the pipe any more.
  std::string written() {
    in_.reset();
    std::string text;
    char chunk[4096];
    for (ssize_t n = 0; (n = read(out_.get(), chunk, sizeof(chunk))) > 0;) {
      text.append(chunk, static_cast<size_t>(n));
    }
    return text;
  }

  const std::string secret_ =
      testing::UnitTest::GetInstance()->current_test_info()->name() + std::to_string(getpid());
  UniqueFd out_;
  UniqueFd in_;
};

TEST_F(ClusterProcess, TellsHowItEnded) {
  auto fails = start({"sh", "-c", "exit 3"});
  ASSERT_TRUE(fails.ok());
  EXPECT_EQ(end_of(*fails), "it ended with status 3");
  EXPECT_TRUE((*fails).ended());
  auto killed = start({"sleep", "1000"});
  ASSERT_TRUE(killed.ok());
  EXPECT_FALSE((*killed).reap());
  (*killed).signal_group(SIGKILL);
  EXPECT_EQ(end_of(*killed), "it was killed by signal 9 (Killed)");
}

TEST_F(ClusterProcess, AProgramThatIsNotThereIsNamed) {
  const auto missing = start({"/nonexistent/program"});
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.error().message, HasSubstr("/nonexistent/program: No such file"));
}

TEST_F(ClusterProcess, InheritsNothingButTheKeptDescriptor) {
  int others[2];
  ASSERT_EQ(pipe(others), 0);
  const UniqueFd kept(others[0]);
  const UniqueFd not_kept(others[1]);
  const auto has = [](const UniqueFd& fd) {
    return "test -e /proc/self/fd/" + std::to_string(fd.get()) + " && echo has-" +
           std::to_string(fd.get()) + "; ";
  };
  auto process =
      start({"sh", "-c", has(kept) + has(not_kept) + "echo $TRIREME_EPOCH; cat"}, kept.get());
  ASSERT_TRUE(process.ok());
  EXPECT_EQ(end_of(*process), "it ended with status 0");
  EXPECT_EQ(written(), "has-" + std::to_string(kept.get()) + "\n3\n");
}

TEST_F(ClusterProcess, ItsEndTakesItsGroupAlong) {
  {
    auto process = start({"sh", "-c", "sleep 1000 & sleep 1000"});
    ASSERT_TRUE(process.ok());
  }
  EXPECT_EQ(written(), "");  // would wait for the sleeper that holds the pipe
}

TEST_F(ClusterProcess, FindsWhatLeftForASessionOfItsOwn) {
  auto process = start({"sh", "-c", "setsid sh -c 'echo up; exec sleep 1000' & exec sleep 1000"});
  ASSERT_TRUE(process.ok());
  char up[3];
  ASSERT_EQ(read(out_.get(), up, sizeof(up)), static_cast<ssize_t>(sizeof(up)));
  (*process).signal_group(SIGKILL);
  EXPECT_THAT(end_of(*process), HasSubstr("signal 9"));
  EXPECT_EQ(signal_processes_with(with_epoch(secret_, "4"), SIGKILL), 0);
  EXPECT_EQ(signal_processes_with(with_epoch(secret_ + "x", "3"), SIGKILL), 0);
  // It may be in the middle of its exec, where its environment cannot be read.
  EXPECT_TRUE(wait_until([&] { return signal_processes_with(with_epoch(secret_, "3"), 0) == 1; }));
  EXPECT_TRUE(
      wait_until([&] { return signal_processes_with(with_epoch(secret_, "3"), SIGKILL) == 1; }));
  EXPECT_EQ(written(), "");  // ends when it does
}

}  // namespace
}  // namespace trireme
