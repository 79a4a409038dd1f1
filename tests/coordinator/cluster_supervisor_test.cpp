#include "coordinator/cluster/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;
using testing::HasSubstr;

LaunchSpec two_rank_spec() {
  LaunchSpec spec;
  spec.job.layout = {.tp = 2, .pp = 1};
  return spec;
}

RankState state_of(RankActivity activity, uint64_t tick) {
  RankState state;
  state.activity = activity;
  state.tick = tick;
  return state;
}

// Drives a supervisor along a virtual clock and keeps what it asked for.
class Drive {
 public:
  explicit Drive(const LaunchSpec& spec = two_rank_spec())
      : spec_(spec), supervisor(spec), n_ranks_(spec.job.layout.n_ranks()) {}

  void take(SupervisorActions&& actions) {
    for (SupervisorAction& action : actions) asked.push_back(std::move(action));
  }
  // How often `kind` was asked for since the last call with it; forgets them.
  int n_asked(Kind kind) {
    return static_cast<int>(std::erase_if(asked, [kind](const auto& a) { return a.kind == kind; }));
  }
  std::optional<SupervisorAction> last(Kind kind) const {
    for (auto it = asked.rbegin(); it != asked.rend(); ++it) {
      if (it->kind == kind) return *it;
    }
    return std::nullopt;
  }

  RankHello hello(int rank) const {
    RankHello hello;
    hello.world_rank = rank;
    hello.world_size = n_ranks_;
    hello.epoch = supervisor.epoch();
    hello.host = "h";
    return hello;
  }
  Supervisor::HelloAnswer say(const RankHello& hello) {
    Supervisor::HelloAnswer answer;
    take(supervisor.on_hello(now, hello, answer));
    return answer;
  }
  void ready(int rank, int32_t kv_blocks = 5, const std::string& numerics = "n",
             int32_t kv_kept = 0) {
    RankReady ready;
    ready.kv_blocks = kv_blocks;
    ready.kv_kept = kv_kept;
    ready.numerics_id = numerics;
    take(supervisor.on_ready(now, supervisor.epoch(), rank, ready));
  }
  void launch_all() {
    for (int r = 0; r < n_ranks_; ++r) {
      EXPECT_EQ(say(hello(r)).verdict, Supervisor::HelloVerdict::kAccepted);
    }
  }
  void bring_up() {
    if (supervisor.status() == GroupStatus::kStopped) take(supervisor.start(now));
    launch_all();
    for (int r = 0; r < n_ranks_; ++r) ready(r, 5 + r);
    ASSERT_EQ(supervisor.status(), GroupStatus::kServing);
  }
  // Time passes with heartbeats as `states` says (nullopt: silence of that rank).
  void pass(int64_t ms, const std::vector<std::optional<RankState>>& states) {
    for (const int64_t end = now + ms; now < end;) {
      now += 10;
      for (size_t r = 0; r < states.size() && now % 50 == 0; ++r) {
        if (!states[r]) continue;
        take(supervisor.on_state(now, supervisor.epoch(), static_cast<int>(r), *states[r]));
      }
      take(supervisor.on_timer(now));
    }
  }
  void pass(int64_t ms, RankActivity activity) {
    pass(ms, std::vector<std::optional<RankState>>(static_cast<size_t>(n_ranks_),
                                                   state_of(activity, 1)));
  }
  void all_gone(const std::string& output = "") {
    take(supervisor.on_all_gone(now, supervisor.epoch(), output));
  }

 private:
  LaunchSpec spec_;

 public:
  Supervisor supervisor;
  int64_t now = 1000;
  SupervisorActions asked;

 private:
  int n_ranks_;
};

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
  for (int i = 0; i < 40; ++i) {
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
  pass_in_steps_of_100_ms(11, false);
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
  d.pass(1000, {waiting, waiting});
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
