#include "worker/worker_options.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

namespace trireme {
namespace {

class WorkerOptionsTest : public testing::Test {
 protected:
  WorkerOptionsTest() {
    setenv("TRIREME_SECRET", "s3cret", 1);
    setenv("TRIREME_EPOCH", "7", 1);
  }
  ~WorkerOptionsTest() override {
    unsetenv("TRIREME_SECRET");
    unsetenv("TRIREME_EPOCH");
  }
  static Result<WorkerOptions> parse(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"trireme", "worker"});
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    return parse_worker_options(static_cast<int>(argv.size()), argv.data());
  }
};

TEST_F(WorkerOptionsTest, ReadsArgumentsAndEnvironment) {
  const auto options = parse({"--comm", "region", "--coordinator", "127.0.0.1:9", "--rank", "1",
                              "--world", "2", "--region-fd", "5"});
  ASSERT_TRUE(options);
  EXPECT_EQ(options->comm, WorkerOptions::Comm::kRegion);
  EXPECT_EQ(options->coordinator, "127.0.0.1:9");
  EXPECT_EQ(options->rank, 1);
  EXPECT_EQ(options->world, 2);
  EXPECT_EQ(options->region_fd, 5);
  EXPECT_EQ(options->secret, "s3cret");
  EXPECT_EQ(options->epoch, 7U);
  EXPECT_TRUE(parse({"--comm", "mpi", "--coordinator", "h:1"}));
}

TEST_F(WorkerOptionsTest, RefusesWhatCannotBe) {
  EXPECT_FALSE(parse({}));
  EXPECT_FALSE(parse({"--coordinator"}));
  EXPECT_FALSE(parse({"--coordinator", "h:1", "--rank", "x"}));
  EXPECT_FALSE(parse({"--coordinator", "h:1", "--rank", "2", "--world", "2"}));
  EXPECT_FALSE(parse({"--coordinator", "h:1", "--rank", "1", "--world", "2"}));  // no region
  EXPECT_FALSE(parse({"--coordinator", "h:1", "--comm", "pigeon"}));
  EXPECT_FALSE(parse({"--coordinator", "h:1", "--unknown", "1"}));
  setenv("TRIREME_EPOCH", "soon", 1);
  EXPECT_FALSE(parse({"--coordinator", "h:1"}));
}

}  // namespace
}  // namespace trireme
