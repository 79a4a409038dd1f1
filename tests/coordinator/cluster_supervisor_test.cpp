#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>

#include "tests/coordinator/supervisor_drive.h"

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;
using testing::HasSubstr;

TEST(ClusterSupervisor, AFailureThatAServingRankTellsIsForGood) {
  Drive d;
  d.bring_up();
  d.take(d.supervisor.on_failure(d.now, d.supervisor.epoch(), 1, "its weights are damaged"));
  EXPECT_EQ(d.n_asked(Kind::kKill), 1);
  d.all_gone("the connection ended");
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kBroken);
  const auto broken = d.last(Kind::kReportBroken);
  ASSERT_TRUE(broken);
  EXPECT_THAT(broken->text, testing::EndsWith("its weights are damaged"));
  d.n_asked(Kind::kLaunch);
  d.pass(100'000, std::vector<std::optional<RankState>>(2));
  EXPECT_EQ(d.n_asked(Kind::kLaunch), 0);
}

// Every rank must have kept all blocks that the group uses: steps need all stages and shards.
TEST(ClusterSupervisor, KeepsTheKvThatAllRanksKept) {
  for (const auto& [of_rank_0, of_rank_1] : {std::pair{4, 4}, {4, 0}, {9, 4}, {0, 0}}) {
    Drive d;
    d.take(d.supervisor.start(d.now));
    d.launch_all();
    d.ready(0, 9, "n", of_rank_0);
    d.ready(1, 4, "n", of_rank_1);
    const bool kept = of_rank_0 == 4 && of_rank_1 == 4;
    EXPECT_EQ(d.last(Kind::kSendStart)->keep_kv, kept);
    EXPECT_EQ(d.supervisor.capacity().kv_kept, kept);
  }
}

TEST(ClusterSupervisor, KeepsNoKvOfRanksThatHung) {
  Drive d;
  d.bring_up();
  d.supervisor.on_plan_sent(d.now);
  for (int i = 0; i < 100; ++i) {
    d.now += 20;
    for (int rank = 0; rank < 2; ++rank) {
      RankState state;
      state.activity = RankActivity::kWaiting;
      d.take(d.supervisor.on_state(d.now, d.supervisor.epoch(), rank, state));
    }
    d.take(d.supervisor.on_timer(d.now));
    if (const auto lost = d.last(Kind::kReportLost)) {
      ASSERT_EQ(lost->cause, "stalled");
      break;
    }
  }
  ASSERT_TRUE(d.last(Kind::kReportLost));
  d.all_gone();
  // A launch that fails in between leaves the memory as it was.
  for (const bool launch_fails : {true, false}) {
    d.now += 1000;
    d.take(d.supervisor.on_timer(d.now));
    ASSERT_EQ(d.supervisor.status(), GroupStatus::kLaunching);
    if (!launch_fails) break;
    d.take(d.supervisor.on_launch_failed(d.now, d.supervisor.epoch(), "no"));
    d.all_gone();
  }
  d.launch_all();
  for (int rank = 0; rank < 2; ++rank) d.ready(rank, 4, "n", 4);
  EXPECT_FALSE(d.last(Kind::kSendStart)->keep_kv);
  EXPECT_FALSE(d.supervisor.capacity().kv_kept);
}

TEST(ClusterSupervisor, ComesUpWithTheSmallestKvPool) {
  Drive d;
  d.take(d.supervisor.start(d.now));
  EXPECT_EQ(d.n_asked(Kind::kLaunch), 1);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kLaunching);
  d.launch_all();
  EXPECT_EQ(d.n_asked(Kind::kSendJob), 2);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kLoading);
  d.ready(0, 9);
  EXPECT_EQ(d.n_asked(Kind::kReportServing), 0);
  d.ready(1, 4);
  EXPECT_EQ(d.last(Kind::kSendStart)->kv_blocks, 4);
  EXPECT_EQ(d.n_asked(Kind::kReportServing), 1);
  EXPECT_EQ(d.supervisor.capacity().kv_blocks, 4);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
}

TEST(ClusterSupervisor, RefusesWrongHellosWithoutEffect) {
  Drive d;
  d.take(d.supervisor.start(d.now));
  RankHello old = d.hello(0);
  old.epoch = 0;
  EXPECT_EQ(d.say(old).verdict, Supervisor::HelloVerdict::kRefused);
  RankHello wide = d.hello(0);
  wide.world_size = 3;
  EXPECT_THAT(d.say(wide).reason, HasSubstr("needs 2"));
  EXPECT_EQ(d.say(d.hello(0)).verdict, Supervisor::HelloVerdict::kAccepted);
  EXPECT_THAT(d.say(d.hello(0)).reason, HasSubstr("already connected"));
  EXPECT_EQ(d.supervisor.n_connected(), 1);
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kLaunching);
  EXPECT_EQ(d.n_asked(Kind::kSendJob), 1);
}

TEST(ClusterSupervisor, ExternalRanksNeedNotKnowTheEpoch) {
  LaunchSpec spec = two_rank_spec();
  spec.launcher = LauncherKind::kExternal;
  Drive d(spec);
  d.take(d.supervisor.start(d.now));
  RankHello hello = d.hello(0);
  hello.epoch = 0;
  EXPECT_EQ(d.say(hello).verdict, Supervisor::HelloVerdict::kAccepted);
}

TEST(ClusterSupervisor, ALostRankIsReportedAtOnceAndTheGroupRelaunched) {
  Drive d;
  d.bring_up();
  const uint64_t first = d.supervisor.epoch();
  d.asked.clear();
  d.take(d.supervisor.on_disconnect(d.now, first, 1, "its connection ended"));
  EXPECT_EQ(d.last(Kind::kReportLost)->cause, "socket");
  EXPECT_THAT(d.last(Kind::kReportLost)->text, HasSubstr("rank 1"));
  EXPECT_EQ(d.n_asked(Kind::kKill), 1);
  // Nothing is launched while a process of the old epoch may live.
  d.pass(50, {std::nullopt, std::nullopt});
  EXPECT_EQ(d.n_asked(Kind::kLaunch), 0);
  d.all_gone();
  d.pass(200, {std::nullopt, std::nullopt});
  EXPECT_EQ(d.n_asked(Kind::kLaunch), 1);
  EXPECT_EQ(d.supervisor.epoch(), first + 1);
  // Frames of the old epoch change nothing.
  d.take(d.supervisor.on_disconnect(d.now, first, 0, "late"));
  d.take(d.supervisor.on_process_exit(d.now, first, "late"));
  EXPECT_FALSE(d.supervisor.on_result(d.now, first, 0));
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kLaunching);
  d.bring_up();
  EXPECT_EQ(d.n_asked(Kind::kReportLost), 1);
}

TEST(ClusterSupervisor, TheFirstLaunchThatFailsIsFinalAndSaysWhatTheRanksSaid) {
  Drive d;
  d.take(d.supervisor.start(d.now));
  d.take(d.supervisor.on_process_exit(d.now, 1, "mpirun ended with status 1"));
  EXPECT_EQ(d.n_asked(Kind::kReportBroken), 0);
  d.all_gone("no such host");
  EXPECT_EQ(d.last(Kind::kReportBroken)->text, "mpirun ended with status 1; it said: no such host");
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kBroken);
  EXPECT_EQ(d.n_asked(Kind::kReportLost), 0);
  d.pass(100000, {std::nullopt, std::nullopt});
  EXPECT_EQ(d.n_asked(Kind::kLaunch), 1);
}

TEST(ClusterSupervisor, LaunchAndLoadHaveDeadlines) {
  Drive d;
  d.take(d.supervisor.start(d.now));
  d.say(d.hello(0));
  d.pass(59900, {state_of(RankActivity::kLoading, 0), std::nullopt});
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kLaunching);
  d.pass(200, {state_of(RankActivity::kLoading, 0), std::nullopt});
  d.all_gone();
  EXPECT_THAT(d.last(Kind::kReportBroken)->text, HasSubstr("1 of 2 ranks (1) did not come up"));

  Drive e;
  e.take(e.supervisor.start(e.now));
  e.launch_all();
  // As long as bytes come in there is no hurry.
  for (uint64_t i = 1; i <= 20; ++i) {
    RankState state = state_of(RankActivity::kLoading, 0);
    state.loaded_bytes = i;
    e.pass(500000, {state, state_of(RankActivity::kLoading, 0)});
  }
  EXPECT_EQ(e.supervisor.status(), GroupStatus::kLoading);
  EXPECT_EQ(e.n_asked(Kind::kReportLoading), 20);
  e.pass(601000, RankActivity::kLoading);
  EXPECT_EQ(e.n_asked(Kind::kKill), 1);
}

TEST(ClusterSupervisor, ResultsBeyondThePlansInFlightAreDropped) {
  Drive d;
  d.bring_up();
  EXPECT_FALSE(d.supervisor.on_result(d.now, 1, 0));
  d.supervisor.on_plan_sent(d.now);
  EXPECT_TRUE(d.supervisor.on_result(d.now, 1, 1));  // a trace
  EXPECT_TRUE(d.supervisor.on_result(d.now, 1, 0));
  EXPECT_FALSE(d.supervisor.on_result(d.now, 1, 0));
}

TEST(ClusterSupervisor, RanksThatWouldNotComputeTheSameDoNotStart) {
  Drive d;
  d.take(d.supervisor.start(d.now));
  d.launch_all();
  d.ready(0, 5, "avx512");
  d.ready(1, 5, "avx2");
  d.all_gone();
  EXPECT_THAT(d.last(Kind::kReportBroken)->text, HasSubstr("avx2"));
}

TEST(ClusterSupervisor, ACrashLoopBacksOffThenBreaks) {
  LaunchSpec spec = two_rank_spec();
  spec.deadlines.max_crashes = 4;
  Drive d(spec);
  d.bring_up();
  std::vector<int64_t> pauses;
  d.take(d.supervisor.on_disconnect(d.now, d.supervisor.epoch(), 0, "gone"));
  for (int i = 0; i < 2; ++i) {
    d.all_gone();
    EXPECT_EQ(d.supervisor.status(), GroupStatus::kBackoff);
    const int64_t from = d.now;
    while (d.supervisor.status() == GroupStatus::kBackoff) d.pass(10, {});
    pauses.push_back(d.now - from);
    d.take(d.supervisor.on_launch_failed(d.now, d.supervisor.epoch(), "no"));
  }
  EXPECT_EQ(pauses, (std::vector<int64_t>{100, 200}));
  d.all_gone();
  while (d.supervisor.status() == GroupStatus::kBackoff) d.pass(10, {});
  d.take(d.supervisor.on_process_exit(d.now, d.supervisor.epoch(), "rank 0 ended with status 1"));
  d.all_gone("disk full");
  EXPECT_EQ(d.supervisor.status(), GroupStatus::kBroken);
  EXPECT_THAT(d.last(Kind::kReportBroken)->text, HasSubstr("4 crashes within 60 s"));
  EXPECT_THAT(d.last(Kind::kReportBroken)->text, HasSubstr("disk full"));
}

TEST(ClusterSupervisor, CrashesFarApartNeverBreak) {
  Drive d;
  for (int i = 0; i < 20; ++i) {
    d.bring_up();
    d.pass(20000, RankActivity::kIdle);
    d.take(d.supervisor.on_disconnect(d.now, d.supervisor.epoch(), 0, "gone"));
    d.all_gone();
    while (d.supervisor.status() == GroupStatus::kBackoff) d.pass(10, {});
    ASSERT_EQ(d.supervisor.status(), GroupStatus::kLaunching);
  }
}

TEST(ClusterSupervisor, StopDrainsThenTerminatesThenKills) {
  Drive d;
  d.bring_up();
  d.take(d.supervisor.stop(d.now));
  EXPECT_EQ(d.n_asked(Kind::kSendDrain), 1);
  d.pass(4900, {});
  EXPECT_EQ(d.n_asked(Kind::kTerminate), 0);
  d.pass(200, {});
  EXPECT_EQ(d.n_asked(Kind::kTerminate), 1);
  d.pass(1100, {});
  EXPECT_EQ(d.n_asked(Kind::kKill), 1);
  EXPECT_EQ(d.n_asked(Kind::kReportStopped), 0);
  d.all_gone();
  EXPECT_EQ(d.n_asked(Kind::kReportStopped), 1);
  EXPECT_EQ(d.n_asked(Kind::kReportLost), 0);
}

// A world of ranks that come up, die, hang and answer late, at random: whatever happens, at most
// one epoch is live, epochs only grow, and once the world behaves the group serves again.
// As often as anybody likes, and whatever it was doing: no stop is a crash.
TEST(ClusterSupervisor, StartsAgainAfterAStop) {
  Drive d;
  for (int i = 0; i < 3 * GroupDeadlines{}.max_crashes; ++i) {
    d.bring_up();
    const uint64_t epoch = d.supervisor.epoch();
    if (i % 3 == 1) d.take(d.supervisor.on_process_exit(d.now, epoch, "rank 1 was killed"));
    d.take(d.supervisor.stop(d.now));
    d.all_gone();
    EXPECT_EQ(d.supervisor.status(), GroupStatus::kStopped);
    EXPECT_EQ(d.n_asked(Kind::kReportStopped), 1);
    d.take(d.supervisor.on_process_exit(d.now, epoch, "rank 0 ended"));
    EXPECT_EQ(d.n_asked(Kind::kReportBroken), 0);
    d.now += GroupDeadlines{}.crash_window_ms;
  }
}

TEST(ClusterSupervisor, RandomEventsNeverMakeTwoEpochsLiveAndAlwaysConverge) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    LaunchSpec spec = two_rank_spec();
    spec.deadlines.max_crashes = 1 << 20;
    Drive d(spec);
    d.bring_up();
    uint64_t live = 1;  // the epoch whose processes exist; 0: none
    uint64_t newest = 1;
    d.asked.clear();
    int64_t killed_at = 0;
    const auto processes_end = [&] {
      live = 0;
      killed_at = 0;
      d.all_gone();
    };
    // What was asked for happens; processes outlive a kill by a second at most.
    const auto carry_out = [&] {
      SupervisorActions actions = std::move(d.asked);
      d.asked.clear();
      for (const SupervisorAction& action : actions) {
        if (action.kind == Kind::kLaunch) {
          ASSERT_EQ(live, 0U);
          ASSERT_GT(action.epoch, newest);
          live = newest = action.epoch;
        }
        if (action.kind == Kind::kKill) killed_at = d.now;
        ASSERT_NE(action.kind, Kind::kReportBroken);
      }
    };
    const auto pass = [&](int64_t ms) {
      for (int64_t passed = 0; passed < ms && !HasFatalFailure(); passed += 10) {
        d.pass(10, {});
        if (d.supervisor.is_ending() && killed_at != 0 && d.now >= killed_at + 1000) {
          processes_end();
        }
        carry_out();
      }
    };
    for (int step = 0; step < 400; ++step) {
      const uint64_t epoch = newest - std::min<uint64_t>(newest - 1, random() % 4 / 3);
      const int rank = static_cast<int>(random() % 2);
      switch (random() % 10) {
        case 0: d.take(d.supervisor.on_disconnect(d.now, epoch, rank, "gone")); break;
        case 1: d.take(d.supervisor.on_process_exit(d.now, epoch, "exit")); break;
        case 2: {
          RankHello hello = d.hello(rank);
          hello.epoch = epoch;
          d.say(hello);
          break;
        }
        case 3: d.ready(rank); break;
        case 4:  // a group that serves would be broken for good
          if (d.supervisor.status() == GroupStatus::kServing) break;
          d.take(d.supervisor.on_failure(d.now, epoch, rank, "failure"));
          break;
        case 5: d.supervisor.on_result(d.now, epoch, rank); break;
        case 6: d.take(d.supervisor.on_launch_failed(d.now, epoch, "failed")); break;
        case 7:
          if (d.supervisor.is_ending()) processes_end();
          break;
        default: pass(static_cast<int64_t>(random() % 500)); break;
      }
      carry_out();
      if (HasFatalFailure()) return;
    }
    for (int round = 0; round < 10000 && d.supervisor.status() != GroupStatus::kServing; ++round) {
      if (d.supervisor.status() == GroupStatus::kLaunching) {
        for (int r = 0; r < 2; ++r) d.say(d.hello(r));
      }
      if (d.supervisor.status() == GroupStatus::kLoading) {
        for (int r = 0; r < 2; ++r) d.ready(r);
      }
      if (d.supervisor.status() != GroupStatus::kServing) pass(10);
      carry_out();
      if (HasFatalFailure()) return;
    }
    EXPECT_EQ(d.supervisor.status(), GroupStatus::kServing);
  }
}

}  // namespace
}  // namespace trireme
