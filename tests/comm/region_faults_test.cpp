#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "comm/region_mapping.h"
#include "comm/shared_region.h"
#include "tests/comm/collective_checks.h"
#include "tests/comm/rank_groups.h"

namespace trireme::test {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;

constexpr milliseconds kShort{200};
// Longer than a test may take: a rank that is not woken fails the test by its time limit.
constexpr milliseconds kLong{3'600'000};

TEST(RegionFaults, AMissingPeerEndsTheWaitAtTheDeadlineOnEveryRank) {
  const SharedRegion region = SharedRegion::create({.tp = 3});
  const auto messages = run_threads(region, {.deadline = kShort}, [&](int rank, RankComms& comms) {
    if (rank != 2) return check_all_reduce_tree(*comms.tp, {16, 100, 2});
    // Stays away from the sum, and would wait for long if the others did not tell it.
    const RankComms patient = make_region_comms(region, rank, {.deadline = kLong});
    float value = 0;
    patient.tp->recv({}, make_tensor(&value, DType::kF32, {1}), 0);
  });
  EXPECT_THAT(messages[2], HasSubstr("was aborted"));
  int n_timeouts = 0;
  for (size_t rank : {size_t{0}, size_t{1}}) {
    const bool timeout = messages[rank].find("gone or stuck") != std::string::npos;
    n_timeouts += timeout ? 1 : 0;
    if (!timeout) {
      EXPECT_THAT(messages[rank], HasSubstr("was aborted"));
    }
  }
  EXPECT_GE(n_timeouts, 1);
}

TEST(RegionFaults, TheErrorNamesOperationPeerAndTime) {
  const SharedRegion region = SharedRegion::create({.tp = 2, .pp = 2});
  RankComms comms = make_region_comms(region, 1, {.deadline = kShort});  // tp_rank 1, pp_rank 0
  float value = 0;
  const Tensor tensor = make_tensor(&value, DType::kF32, {1});
  try {
    comms.pp->recv({}, tensor, 1);
    FAIL() << "nobody sent anything";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("recv (pp)"), HasSubstr("rank 1"),
                                    ContainsRegex("for [0-9]+\\.[0-9]+ s")));
  }
  // The whole region is aborted then, the other communicator included.
  EXPECT_THROW(check_all_reduce_tree(*comms.tp, {2, 10, 1}), CommError);
}

TEST(RegionFaults, SendToAFullMailboxEndsAtTheDeadline) {
  const SharedRegion region = SharedRegion::create({.pp = 2, .max_message_bytes = 4096});
  RankComms comms = make_region_comms(region, 0, {.deadline = kShort});
  std::vector<float> data(1024);
  const Tensor tensor = make_tensor(data.data(), DType::kF32, {1024});
  comms.pp->send({}, tensor, 1);
  comms.pp->send({}, tensor, 1);
  EXPECT_THROW(comms.pp->send({}, tensor, 1), CommError);
}

TEST(RegionFaults, AbortWakesEverySleeper) {
  const SharedRegion region = SharedRegion::create({.tp = 2, .pp = 2});
  // All wait for a message that nobody sends.
  std::thread aborter([&] {
    const detail::RegionMapping view(region.fd(), false, region.shape());
    const auto sleeping = [&](int group, int member) {
      return view.member(group, member).sleeping.load() != 0;
    };
    // The even ranks sleep in the two tensor-parallel groups, the odd ones in the second chain.
    while (!sleeping(0, 0) || !sleeping(1, 0) || !sleeping(3, 0) || !sleeping(3, 1)) {
      std::this_thread::yield();
    }
    SharedRegion(region).abort();
  });
  const auto messages = run_threads(region, {.deadline = kLong}, [&](int rank, RankComms& comms) {
    float value = 0;
    Communicator& comm = rank % 2 == 0 ? *comms.tp : *comms.pp;
    comm.recv({}, make_tensor(&value, DType::kF32, {1}), 1 - comm.rank());
  });
  aborter.join();
  for (const std::string& message : messages) EXPECT_THAT(message, HasSubstr("was aborted; rank"));
}

TEST(RegionFaults, EveryCallThrowsAfterAbort) {
  const SharedRegion region = SharedRegion::create({.tp = 1, .pp = 2});
  RankComms comms = make_region_comms(region, 0, {});
  comms.tp->abort();
  float value = 0;
  const Tensor tensor = make_tensor(&value, DType::kF32, {1});
  EXPECT_THROW(check_all_reduce_tree(*comms.tp, {1, 10, 1}), CommError);
  EXPECT_THROW(check_all_gather(*comms.tp, 10, 1), CommError);
  EXPECT_THROW(comms.pp->send({}, tensor, 1), CommError);
  EXPECT_THROW(comms.pp->recv({}, tensor, 1), CommError);
}

TEST(RegionFaults, AKilledProcessDoesNotHangTheOthers) {
  const SharedRegion region = SharedRegion::create({.tp = 3});
  const auto messages = run_processes(region, {.deadline = kShort}, [](int rank, RankComms& comms) {
    check_all_reduce_tree(*comms.tp, {16, 100, 1});
    if (rank == 1) kill(getpid(), SIGKILL);
    check_all_reduce_tree(*comms.tp, {16, 100, 2});
  });
  EXPECT_EQ(messages[1], "signal 9");
  for (size_t rank : {size_t{0}, size_t{2}}) {
    EXPECT_THAT(messages[rank],
                testing::AnyOf(HasSubstr("gone or stuck"), HasSubstr("was aborted")));
  }
}

TEST(RegionFaults, AnAbortFromOutsideEndsProcesses) {
  const SharedRegion region = SharedRegion::create({.tp = 2});
  const auto messages = run_processes(region, {.deadline = kLong}, [&](int rank, RankComms& comms) {
    check_all_reduce_tree(*comms.tp, {16, 100, 1});
    // The last rank stands for a coordinator that has seen a rank die.
    if (rank == 1) return comms.tp->abort();
    check_all_reduce_tree(*comms.tp, {16, 100, 2});
  });
  EXPECT_THAT(messages[0], HasSubstr("was aborted"));
  EXPECT_EQ(messages[1], "");
}

}  // namespace
}  // namespace trireme::test
