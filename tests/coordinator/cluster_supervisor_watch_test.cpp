// What the supervisor makes of heartbeats, and of their absence.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "tests/coordinator/supervisor_drive.h"

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;
using testing::HasSubstr;

TEST(ClusterSupervisor, SilenceIsLossButABlipOrAPauseOfOurOwnIsNot) {
  Drive d;
  d.bring_up();
  const std::vector<std::optional<RankState>> one_silent = {state_of(RankActivity::kIdle, 1),
                                                            std::nullopt};
  d.pass(250, one_silent);
  d.pass(100, RankActivity::kIdle);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  // This process stood still for long: nobody is blamed for it.
  d.now += 5000;
  d.take(d.supervisor.on_timer(d.now));
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  d.pass(200, RankActivity::kIdle);
  d.pass(500, one_silent);
  EXPECT_EQ(d.last(Kind::kReportLost)->cause, "heartbeat");
}

// On a machine with too much to do, the ranks come to run as seldom as this process.
TEST(ClusterSupervisor, SilenceCountsOnlyWhileThisProcessRuns) {
  Drive d;
  d.bring_up();
  const auto pass_in_steps_of_100_ms = [&d](int n_steps, bool rank_1_is_heard) {
    for (int i = 0; i < n_steps; ++i) {
      d.now += 100;
      for (int rank = 0; rank < (rank_1_is_heard ? 2 : 1); ++rank) {
        d.take(d.supervisor.on_state(d.now, d.supervisor.epoch(), rank,
                                     state_of(RankActivity::kIdle, 1)));
      }
      d.take(d.supervisor.on_timer(d.now));
    }
  };
  for (int i = 0; i < 5; ++i) {
    pass_in_steps_of_100_ms(9, false);
    EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
    pass_in_steps_of_100_ms(1, true);
  }
  pass_in_steps_of_100_ms(13, false);
  EXPECT_EQ(d.last(Kind::kReportLost)->cause, "heartbeat");
}

TEST(ClusterSupervisor, AFrameThatTakesLongToComeIsNoSilence) {
  Drive d;
  d.bring_up();
  const std::vector<std::optional<RankState>> no_heartbeats(2);
  for (int i = 0; i < 20; ++i) {
    for (int rank = 0; rank < 2; ++rank) d.supervisor.on_heard(d.now, d.supervisor.epoch(), rank);
    d.pass(300, no_heartbeats);
  }
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  d.pass(200, no_heartbeats);
  EXPECT_EQ(d.last(Kind::kReportLost)->cause, "heartbeat");
}

// What is known of a rank is as old as its last heartbeat, not as its last byte.
TEST(ClusterSupervisor, BytesWithoutHeartbeatsShowNoDeadlock) {
  Drive d;
  d.bring_up();
  d.supervisor.on_plan_sent(d.now);
  d.pass(200, RankActivity::kWaiting);
  for (int i = 0; i < 10; ++i) {
    for (int rank = 0; rank < 2; ++rank) d.supervisor.on_heard(d.now, d.supervisor.epoch(), rank);
    d.pass(100, std::vector<std::optional<RankState>>(2));
  }
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
}

// Time passes with datagrams of both ranks, and nothing else. `unheard_ms`: what they say, by the
// time passed.
template <typename UnheardMs>
void pass_with_datagrams(Drive& d, int64_t ms, UnheardMs unheard_ms) {
  for (const int64_t begin = d.now, end = begin + ms; d.now < end;) {
    d.now += 10;
    for (int rank = 0; rank < 2 && d.now % 50 == 0; ++rank) {
      d.take(d.supervisor.on_datagram(d.now, d.supervisor.epoch(), rank,
                                      state_of(RankActivity::kIdle, 1), unheard_ms(d.now - begin)));
    }
    d.take(d.supervisor.on_timer(d.now));
  }
}
constexpr auto hearing_well = [](int64_t) { return 0; };

TEST(ClusterSupervisor, DatagramsShowThatARankLives) {
  Drive d;
  d.bring_up();
  for (int i = 0; i < 10; ++i) {
    pass_with_datagrams(d, 1000, hearing_well);
    d.pass(50, RankActivity::kIdle);
  }
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
}

TEST(ClusterSupervisor, DatagramsThatNoAnswerReachesShowNothing) {
  Drive d;
  d.bring_up();
  pass_with_datagrams(d, 450, [](int64_t) { return -1; });
  EXPECT_THAT(d.last(Kind::kReportLost)->text, HasSubstr("nothing heard for 400 ms"));
}

TEST(ClusterSupervisor, AConnectionThatIsDeadUnderTheDatagramsIsLoss) {
  Drive d;
  d.bring_up();
  pass_with_datagrams(d, 2900, hearing_well);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  // This process stood still, with datagrams the first to be read after it.
  d.now += 5000;
  pass_with_datagrams(d, 50, hearing_well);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  pass_with_datagrams(d, 200, hearing_well);
  EXPECT_THAT(d.last(Kind::kReportLost)->text, HasSubstr("its connection has brought nothing"));
}

TEST(ClusterSupervisor, ARankThatHearsNothingOfUsIsLostAsOneThatWeDoNotHear) {
  Drive d;
  d.bring_up();
  const auto deaf = [](int64_t passed_ms) { return static_cast<int32_t>(passed_ms); };
  pass_with_datagrams(d, 350, deaf);
  pass_with_datagrams(d, 100, hearing_well);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  // Not while this process said nothing.
  d.now += 5000;
  pass_with_datagrams(d, 50, [](int64_t) { return 5050; });
  pass_with_datagrams(d, 100, hearing_well);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  pass_with_datagrams(d, 400, deaf);
  EXPECT_THAT(d.last(Kind::kReportLost)->text, HasSubstr("it has heard nothing from here for"));
}

TEST(ClusterSupervisor, AHeartbeatThatADatagramOvertookIsNoNews) {
  Drive d;
  d.bring_up();
  const uint64_t epoch = d.supervisor.epoch();
  d.take(d.supervisor.on_datagram(d.now, epoch, 0, state_of(RankActivity::kIdle, 9), 0));
  d.take(d.supervisor.on_state(d.now, epoch, 0, state_of(RankActivity::kWaiting, 8)));
  EXPECT_EQ(d.supervisor.ranks()[0].last_state.tick, 9U);
  EXPECT_EQ(d.supervisor.ranks()[0].last_state.activity, RankActivity::kIdle);
}

TEST(ClusterSupervisor, AllWaitingIsADeadlockOneComputingIsNot) {
  Drive d;
  d.bring_up();
  const RankState waiting = state_of(RankActivity::kWaiting, 7);
  const RankState computing = state_of(RankActivity::kComputing, 7);
  d.pass(1000, {waiting, waiting});  // no plan in flight
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  d.supervisor.on_plan_sent(d.now);
  d.pass(30000, {waiting, computing});  // a long prefill
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  for (uint64_t tick = 8; tick < 20; ++tick) {  // slow, but moving
    d.pass(200, {state_of(RankActivity::kWaiting, tick), state_of(RankActivity::kWaiting, 7)});
  }
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  d.pass(1200, {state_of(RankActivity::kWaiting, 19), waiting});
  EXPECT_EQ(d.last(Kind::kReportLost)->cause, "stalled");
}

TEST(ClusterSupervisor, AStepWithoutAnyTickRunsIntoTheWatchdog) {
  Drive d;
  d.bring_up();
  d.supervisor.on_plan_sent(d.now);
  d.pass(119000, RankActivity::kComputing);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  d.pass(2000, RankActivity::kComputing);
  EXPECT_EQ(d.last(Kind::kReportLost)->cause, "stalled");
}

// mpirun may lose a rank and wait for it for ever.
TEST(ClusterSupervisor, AfterItServedALaunchIsWaitedForLessLong) {
  LaunchSpec spec = two_rank_spec();
  spec.launcher = LauncherKind::kMpirun;
  spec.deadlines.max_crashes = 3;
  Drive d(spec);
  const auto time_until = [&d](Kind kind) {
    const int64_t begin = d.now;
    while (d.n_asked(kind) == 0 && d.now < begin + 100'000)
      d.pass(10, {std::nullopt, std::nullopt});
    return d.now - begin;
  };
  d.take(d.supervisor.start(d.now));
  d.pass(2000, {std::nullopt, std::nullopt});  // the first may take its time
  d.bring_up();
  d.n_asked(Kind::kLaunch);
  d.take(d.supervisor.on_disconnect(d.now, d.supervisor.epoch(), 1, "gone"));
  d.n_asked(Kind::kKill);
  d.all_gone();
  // Four times as long as the last one took, and longer each time. None of them is a crash.
  for (const int64_t wait_ms : {8000, 16'000, 32'000}) {
    time_until(Kind::kLaunch);
    EXPECT_EQ(time_until(Kind::kKill), wait_ms);
    d.all_gone();
  }
  time_until(Kind::kLaunch);
  d.bring_up();
  // The last one was quick.
  d.take(d.supervisor.on_disconnect(d.now, d.supervisor.epoch(), 1, "gone"));
  d.n_asked(Kind::kKill);
  d.all_gone();
  time_until(Kind::kLaunch);
  EXPECT_EQ(time_until(Kind::kKill), spec.deadlines.join_ms);
}

}  // namespace
}  // namespace trireme
