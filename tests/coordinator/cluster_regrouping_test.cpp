// A supervisor over simulated hosts that go and come back: which layouts it serves on, how soon,
// and how seldom it moves.
#include "coordinator/cluster/regrouping.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "coordinator/cluster/launchers.h"
#include "coordinator/cluster/supervisor.h"

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kStepMs = 20;
constexpr int64_t kComesUpMs = 200;

// What the processes of a group do, on virtual time. A launch over hosts comes up when all of them
// are there, as mpirun's; one on this host when it has a place for each rank.
class World {
 public:
  explicit World(const LaunchSpec& spec)
      : hosts_up(spec.hosts.begin(), spec.hosts.end()), spec_(spec), supervisor_(spec) {}

  std::set<std::string> hosts_up;
  std::set<std::string> without_ranks;  // they answer, but no rank of theirs ever comes
  std::set<std::string> behind_walls;   // no knock gets through to them
  int n_places = 100;                   // on this host
  bool busy = true;                     // a plan is always in flight
  std::vector<Layout> served;           // each time the group came up
  std::vector<std::string> causes;      // of losses that clients noticed
  std::vector<std::string> details;
  int n_asked = 0;
  int n_launches = 0;
  std::vector<std::string> waits;

  void start() { take(supervisor_.start(now_)); }

  void run(int64_t ms) {
    for (const int64_t end = now_ + ms; now_ < end;) {
      now_ += kStepMs;
      while (!due_.empty() && due_.begin()->first <= now_) {
        const auto what = due_.begin()->second;
        due_.erase(due_.begin());
        what();
      }
      if (now_ % 100 == 0) beat();
      take(supervisor_.on_timer(now_));
    }
  }
  // This process does not run.
  void stand_still(int64_t ms) { now_ += ms; }
  // How long it takes until the group serves.
  int64_t run_until_serving(int64_t at_most_ms = 120'000) {
    const int64_t begin = now_;
    const size_t n_before = served.size();
    while (served.size() == n_before && now_ < begin + at_most_ms) run(kStepMs);
    EXPECT_GT(served.size(), n_before);
    return now_ - begin;
  }
  void kill_a_rank() {
    take(supervisor_.on_process_exit(now_, supervisor_.epoch(), "rank 0 was killed"));
  }
  GroupStatus status() const { return supervisor_.status(); }
  const Supervisor& supervisor() const { return supervisor_; }

 private:
  void after(int64_t ms, std::function<void()> what) { due_.emplace(now_ + ms, std::move(what)); }

  void take(SupervisorActions&& actions) {
    for (const SupervisorAction& action : actions) {
      switch (action.kind) {
        case Kind::kLaunch: launch(action.epoch); break;
        case Kind::kAskHosts: ask(); break;
        case Kind::kKnock: knock(); break;
        case Kind::kReportWaiting: waits.push_back(action.text); break;
        case Kind::kKill:
          alive_ = 0;
          after(30,
                [this, epoch = action.epoch] { take(supervisor_.on_all_gone(now_, epoch, "")); });
          break;
        case Kind::kReportServing: {
          served.push_back(supervisor_.capacity().layout);
          EXPECT_EQ(supervisor_.capacity().ranks.size(),
                    static_cast<size_t>(served.back().n_ranks()));
          if (busy) supervisor_.on_plan_sent(now_);
          break;
        }
        case Kind::kReportLost:
          causes.push_back(action.cause);
          details.push_back(action.text);
          break;
        default: break;
      }
    }
  }

  std::vector<std::string> hosts_of_ranks() const {
    return trireme::hosts_of_ranks(supervisor_.formation());
  }

  bool is_up(const std::string& host) const { return host.empty() || hosts_up.contains(host); }

  void launch(uint64_t epoch) {
    alive_ = epoch;
    ++n_launches;
    ++n_knocks_;
    const std::vector<std::string> hosts = hosts_of_ranks();
    if (static_cast<int>(hosts.size()) > n_places) {
      after(50, [this, epoch] {
        take(supervisor_.on_process_exit(now_, epoch, "rank 1 exited with status 1"));
      });
      return;
    }
    after(kComesUpMs, [this, epoch, hosts] {
      if (alive_ != epoch) return;
      for (const std::string& host : hosts) {
        if (!is_up(host)) return;
      }
      for (size_t r = 0; r < hosts.size(); ++r) {
        if (!without_ranks.contains(hosts[r])) join(static_cast<int>(r), hosts[r], hosts.size());
      }
    });
  }

  void join(int rank, const std::string& host, size_t n_ranks) {
    RankHello hello;
    hello.epoch = alive_;
    hello.world_rank = rank;
    hello.world_size = static_cast<int32_t>(n_ranks);
    hello.host = host;
    Supervisor::HelloAnswer answer;
    take(supervisor_.on_hello(now_, hello, answer));
    EXPECT_EQ(answer.verdict, Supervisor::HelloVerdict::kAccepted) << answer.reason;
    RankReady ready;
    ready.kv_blocks = 5;
    take(supervisor_.on_ready(now_, alive_, rank, ready));
  }

  void ask() {
    ++n_asked;
    std::vector<std::string> answered;
    for (const std::string& host : spec_.hosts) {
      if (is_up(host)) answered.push_back(host);
    }
    const bool all = answered.size() == spec_.hosts.size();
    const bool none = answered.empty();
    after(all    ? 300
          : none ? spec_.deadlines.probe_ms
                 : supervisor_.patience_ms(),
          [this, answered] { take(supervisor_.on_hosts_asked(now_, answered)); });
  }

  // Hosts that never had a rank have no address.
  void knock() {
    ++n_knocks_;
    if (supervisor_.status() == GroupStatus::kServing) {
      for (const std::string& host : hosts_of_ranks()) knocked_.insert(host);
    }
    for (const std::string& host : knocked_) answer_knock(host, n_knocks_);
  }

  void answer_knock(const std::string& host, int number) {
    after(5, [this, host, number] {
      if (number != n_knocks_ || behind_walls.contains(host)) return;
      if (is_up(host)) return supervisor_.on_host_reached(host);
      after(95, [this, host, number] { answer_knock(host, number); });
    });
  }

  void beat() {
    if (alive_ == 0) return;
    const std::vector<std::string> hosts = hosts_of_ranks();
    for (size_t r = 0; r < hosts.size(); ++r) {
      if (!supervisor_.is_connected(static_cast<int>(r)) || !is_up(hosts[r])) continue;
      RankState state;
      state.tick = static_cast<uint64_t>(now_);
      state.activity = RankActivity::kComputing;
      take(supervisor_.on_state(now_, alive_, static_cast<int>(r), state));
    }
  }

  const LaunchSpec spec_;
  Supervisor supervisor_;
  int64_t now_ = 1000;
  uint64_t alive_ = 0;  // the epoch whose processes are there
  std::set<std::string> knocked_;
  int n_knocks_ = 0;
  std::multimap<int64_t, std::function<void()>> due_;
};

LaunchSpec two_hosts() {
  LaunchSpec spec;
  spec.launcher = LauncherKind::kMpirun;
  spec.hosts = {"a", "b"};
  spec.control_address = "10.0.0.9";
  spec.job.layout = {.tp = 1, .pp = 2};
  spec.smaller_layouts = {{.layout = {.tp = 1, .pp = 1}}};
  return spec;
}

LaunchSpec local(Layout layout) {
  LaunchSpec spec;
  spec.job.layout = layout;
  for (const Layout& smaller : smaller_layouts(layout, 1, [](const Layout&) { return true; })) {
    spec.smaller_layouts.push_back({.layout = smaller});
  }
  return spec;
}

TEST(ClusterRegrouping, GoesOnWithoutAHostThatIsGoneAndBackWithIt) {
  World world(two_hosts());
  world.start();
  world.run_until_serving();
  world.run(5000);
  world.hosts_up = {"b"};
  // The silence, what answers to knocks are waited for, and the launch.
  EXPECT_LT(world.run_until_serving(), 400 + 200 + kComesUpMs + 100);
  EXPECT_EQ(world.n_asked, 0);
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 1}));
  EXPECT_THAT(world.supervisor().formation().hosts, ElementsAre("b"));
  EXPECT_THAT(world.causes, ElementsAre("heartbeat")) << "no launch in vain";
  // It looks for the host now and then, and disturbs nobody while there is none.
  world.run(150'000);
  EXPECT_EQ(world.served.size(), 2U);
  EXPECT_GE(world.n_asked, 2);
  world.hosts_up = {"a", "b"};
  world.run(62'000);
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 1}, Layout{1, 2}));
  EXPECT_EQ(world.causes.back(), kRegroupCause);
  EXPECT_EQ(world.status(), GroupStatus::kServing);
}

TEST(ClusterRegrouping, AHostThatNoKnockReachesIsAsked) {
  World world(two_hosts());
  world.behind_walls = {"a"};
  world.start();
  world.run_until_serving();
  world.run(5000);
  world.hosts_up = {"b"};
  EXPECT_LT(world.run_until_serving(), 400 + 300 + kComesUpMs + 200);
  EXPECT_EQ(world.n_asked, 1);
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 1}));
  EXPECT_THAT(world.causes, ElementsAre("heartbeat")) << "no launch in vain";
}

TEST(ClusterRegrouping, ASilentRankOfAHostThatAnswersIsNoReasonToMove) {
  for (const bool behind_wall : {false, true}) {
    World world(two_hosts());
    if (behind_wall) world.behind_walls = {"a"};
    world.start();
    world.run_until_serving();
    world.run(1000);
    world.hosts_up = {"b"};
    while (world.causes.empty()) world.run(kStepMs);
    world.hosts_up = {"a", "b"};
    EXPECT_LT(world.run_until_serving(), behind_wall ? 1000 : 100 + kComesUpMs + 100);
    EXPECT_EQ(world.n_asked, behind_wall ? 1 : 0);
    EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 2}));
  }
}

TEST(ClusterRegrouping, AHostThatIsBackSoonKeepsItsRanks) {
  World world(two_hosts());
  world.start();
  world.run_until_serving();
  world.run(1000);
  world.hosts_up = {"b"};
  while (world.causes.empty()) world.run(kStepMs);
  world.run(80);
  world.hosts_up = {"a", "b"};
  // A pause of this process after that, too, is no silence of the host.
  world.stand_still(1000);
  world.run_until_serving();
  EXPECT_EQ(world.n_launches, 2);
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 2}));
}

// This host's own network, say.
TEST(ClusterRegrouping, HostsThatComeBackTogetherKeepTheirRanks) {
  World world(two_hosts());
  world.start();
  world.run_until_serving();
  world.run(1000);
  world.hosts_up.clear();
  world.run(3000);
  EXPECT_THAT(world.waits, ElementsAre(testing::HasSubstr("reaches a, b")));
  world.hosts_up = {"b"};
  world.run(150);
  world.hosts_up = {"a", "b"};
  EXPECT_LT(world.run_until_serving(), 100 + kComesUpMs + 100);
  EXPECT_EQ(world.n_launches, 2);
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 2}));
}

TEST(ClusterRegrouping, AHostThatGoesWithItsRankIsFoundBeforeTheLaunch) {
  World world(two_hosts());
  world.start();
  world.run_until_serving();
  world.run(1000);
  world.hosts_up = {"b"};
  world.kill_a_rank();
  EXPECT_LT(world.run_until_serving(), 200 + kComesUpMs + 100);
  EXPECT_THAT(world.causes, ElementsAre("rank_exit"));
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 1}));
}

TEST(ClusterRegrouping, AHostWithoutRanksTakesThePlaceOfOneThatIsGone) {
  LaunchSpec spec = two_hosts();
  spec.hosts = {"a:1", "b:1", "c:1"};
  World world(spec);
  world.start();
  world.run_until_serving();
  world.run(1000);
  world.hosts_up = {"a:1", "c:1"};
  EXPECT_LT(world.run_until_serving(), 400 + 200 + 300 + kComesUpMs + 200);
  EXPECT_EQ(world.n_asked, 1);
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 2}));
  EXPECT_THAT(world.supervisor().formation().hosts, ElementsAre("a:1", "c:1"));
}

// The launch shows that a host is gone when the loss did not.
TEST(ClusterRegrouping, AHostThatGoesDuringALaunchIsFoundToo) {
  World world(two_hosts());
  world.start();
  world.run_until_serving();
  world.run(1000);
  world.kill_a_rank();
  world.run(200);
  ASSERT_EQ(world.n_launches, 2);
  world.hosts_up = {"b"};
  EXPECT_LT(world.run_until_serving(), 3000);
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 1}));
  EXPECT_EQ(world.n_asked, 1);
  EXPECT_THAT(world.causes, ElementsAre("rank_exit", "launch"));
  EXPECT_THAT(world.details[1], testing::HasSubstr("no answer from a"));
}

TEST(ClusterRegrouping, AKilledRankIsNoReasonToAskOrMove) {
  World world(two_hosts());
  world.start();
  world.run_until_serving();
  world.kill_a_rank();
  EXPECT_LT(world.run_until_serving(), 1000);
  EXPECT_EQ(world.n_asked, 0);
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 2}));
}

TEST(ClusterRegrouping, WhereNoHostAnswersItKeepsItsLayout) {
  World world(two_hosts());
  world.start();
  world.run_until_serving();
  world.hosts_up.clear();
  world.run(30'000);
  world.hosts_up = {"a", "b"};
  world.run_until_serving();
  EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 2}));
}

TEST(ClusterRegrouping, WithoutSmallerLayoutsItWaits) {
  LaunchSpec spec = two_hosts();
  spec.smaller_layouts.clear();
  for (const int64_t gone_ms : {1000, 30'000}) {
    World world(spec);
    world.start();
    world.run_until_serving();
    world.run(1000);
    world.hosts_up = {"b"};
    world.run(gone_ms);
    world.hosts_up = {"a", "b"};
    EXPECT_LT(world.run_until_serving(), 100 + kComesUpMs + 100);
    EXPECT_THAT(world.served, ElementsAre(Layout{1, 2}, Layout{1, 2}));
    EXPECT_EQ(world.n_asked, 0);
    EXPECT_EQ(world.n_launches, 2) << "one in vain";
    EXPECT_THAT(world.waits, ElementsAre(testing::HasSubstr("reaches a")));
  }
}

// A wall that was not there before.
TEST(ClusterRegrouping, ItDoesNotWaitForAnAnswerForEver) {
  LaunchSpec spec = two_hosts();
  spec.smaller_layouts.clear();
  World world(spec);
  world.start();
  world.run_until_serving();
  world.run(1000);
  world.behind_walls = {"a"};
  world.kill_a_rank();
  const int64_t out = world.run_until_serving();
  EXPECT_GE(out, spec.deadlines.launch_ms);
  EXPECT_LT(out, spec.deadlines.launch_ms + kComesUpMs + 100);
  // It is known now that such a host does not answer.
  world.kill_a_rank();
  EXPECT_LT(world.run_until_serving(), 1000);
}

TEST(ClusterRegrouping, AFirstLaunchIsNeverSmaller) {
  World world(two_hosts());
  world.hosts_up = {"b"};
  world.start();
  world.run(70'000);
  EXPECT_EQ(world.status(), GroupStatus::kBroken);
  EXPECT_THAT(world.served, IsEmpty());
}

// The host answers, but its ranks cannot be had: the way back is short, and the next try later.
TEST(ClusterRegrouping, AReturnInVainIsShortAndSeldom) {
  World world(two_hosts());
  world.start();
  world.run_until_serving();
  world.hosts_up = {"b"};
  world.run_until_serving();
  world.hosts_up = {"a", "b"};
  world.without_ranks = {"a"};
  constexpr int64_t kHourMs = 3600'000;
  int64_t longest = 0;
  for (int64_t passed = 0; passed < 12 * kHourMs;) {
    world.run(kStepMs);
    passed += kStepMs;
    if (world.status() == GroupStatus::kServing) continue;
    const int64_t out = world.run_until_serving();
    longest = std::max(longest, out);
    passed += out;
  }
  EXPECT_LT(longest, 11'000);
  EXPECT_EQ(world.served.back(), (Layout{1, 1}));
  const auto n_returns = std::count(world.causes.begin(), world.causes.end(), kRegroupCause);
  EXPECT_GE(n_returns, 14);
  EXPECT_LE(n_returns, 18);
}

// A host that comes and goes all the time: it is taken up ever more seldom, and again as soon as at
// first once a whole group held.
TEST(ClusterRegrouping, AHostThatFlapsIsTakenUpEverMoreSeldom) {
  World world(two_hosts());
  world.start();
  world.run_until_serving();
  const auto n_returns = [&world] {
    return std::count(world.causes.begin(), world.causes.end(), kRegroupCause);
  };
  // Gone for good as soon as the group serves with it.
  for (int64_t passed = 0; passed < 8 * 3600'000; passed += 1000) {
    const bool whole =
        world.served.back() == Layout{1, 2} && world.status() == GroupStatus::kServing;
    world.hosts_up = {"b"};
    if (!whole) world.hosts_up.insert("a");
    world.run(1000);
  }
  EXPECT_GE(n_returns(), 6);
  EXPECT_LE(n_returns(), 14);
  EXPECT_NE(world.status(), GroupStatus::kBroken);
  world.hosts_up = {"a", "b"};
  world.run(3 * 3600'000);
  ASSERT_EQ(world.served.back(), (Layout{1, 2}));
  world.hosts_up = {"b"};
  world.run_until_serving();
  world.hosts_up = {"a", "b"};
  const auto before = n_returns();
  world.run(62'000);
  EXPECT_EQ(n_returns(), before + 1);
}

TEST(ClusterRegrouping, StepsDownHereUntilALaunchWorksAndBackWhenIdle) {
  World world(local({.tp = 4, .pp = 2}));
  world.start();
  world.run_until_serving();
  world.n_places = 3;
  world.kill_a_rank();
  // Steps of one rank, and none of them a crash for the breaker.
  world.run_until_serving();
  EXPECT_EQ(world.served.back(), (Layout{3, 1}));
  // Nobody can say whether there are places again: it tries when no request would notice.
  world.run(600'000);
  EXPECT_EQ(world.served.size(), 2U);
  world.busy = false;
  world.kill_a_rank();
  world.run_until_serving();
  EXPECT_EQ(world.served.back(), (Layout{3, 1}));
  world.run(63'000);
  EXPECT_EQ(world.served.size(), 4U) << "a return in vain";
  EXPECT_EQ(world.served.back(), (Layout{3, 1}));
  world.n_places = 8;
  world.run(125'000);
  EXPECT_EQ(world.served.back(), (Layout{4, 2}));
}

}  // namespace
}  // namespace trireme
