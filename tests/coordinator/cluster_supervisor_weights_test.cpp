// The supervisor's part in a change of weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "coordinator/cluster/supervisor.h"

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;
using Order = WeightsOrder::Kind;
using testing::ElementsAre;
using testing::HasSubstr;

const WeightsFile kOld{.generation = 1, .path = "old", .fingerprint = 11};
const WeightsFile kNew{.generation = 2, .path = "new", .fingerprint = 22};

class SupervisorWeights : public testing::Test {
 protected:
  SupervisorWeights() {
    spec_.job.layout = {.tp = 2, .pp = 1};
    spec_.job.weights = {kOld};
    supervisor_.emplace(spec_);
    take(supervisor_->start(now_));
    bring_up();
  }

  void take(SupervisorActions&& actions) {
    for (SupervisorAction& each : actions) asked_.push_back(std::move(each));
  }
  void bring_up() {
    for (int rank = 0; rank < 2; ++rank) {
      RankHello hello;
      hello.world_rank = rank;
      hello.world_size = 2;
      hello.epoch = supervisor_->epoch();
      Supervisor::HelloAnswer answer;
      take(supervisor_->on_hello(now_, hello, answer));
    }
    for (int rank = 0; rank < 2; ++rank) ready(rank);
    ASSERT_EQ(supervisor_->status(), GroupStatus::kServing);
  }
  void ready(int rank) {
    RankReady ready;
    ready.kv_blocks = 5;
    ready.numerics_id = "n";
    take(supervisor_->on_ready(now_, supervisor_->epoch(), rank, ready));
  }
  void prepared(int rank, const WeightsPrepared& said) {
    take(supervisor_->on_prepared(now_, supervisor_->epoch(), rank, said));
  }
  static WeightsPrepared good() { return {.generation = 2, .fingerprint = 22, .numerics_id = "n"}; }
  void lose() {
    take(supervisor_->on_process_exit(now_, supervisor_->epoch(), "rank 1 was killed"));
    take(supervisor_->on_all_gone(now_, supervisor_->epoch(), ""));
  }
  void relaunch() {
    lose();
    now_ += spec_.deadlines.backoff_initial_ms;
    for (int r = 0; r < 2; ++r) supervisor_->on_heard(now_, supervisor_->epoch(), r);
    take(supervisor_->on_timer(now_));
    ASSERT_EQ(supervisor_->status(), GroupStatus::kLaunching);
  }
  // What was sent about weights since the last call.
  std::vector<std::pair<Order, uint64_t>> orders() {
    std::vector<std::pair<Order, uint64_t>> all;
    for (const SupervisorAction& each : std::exchange(asked_, {})) {
      if (each.kind == Kind::kReportPrepared) reports_.push_back(each.text);
      if (each.kind == Kind::kSendWeights)
        all.emplace_back(each.order.kind, each.order.file.generation);
    }
    return all;
  }
  std::vector<std::string> reports() {
    orders();
    return std::exchange(reports_, {});
  }

  LaunchSpec spec_;
  std::optional<Supervisor> supervisor_;
  SupervisorActions asked_;
  std::vector<std::string> reports_;
  int64_t now_ = 1000;
};

TEST_F(SupervisorWeights, PreparedOnlyWhenEveryRankIs) {
  take(supervisor_->prepare(now_, kNew));
  EXPECT_THAT(orders(), ElementsAre(std::pair(Order::kPrepare, 2U)));
  prepared(0, good());
  prepared(0, good());
  EXPECT_THAT(reports(), ElementsAre());
  prepared(1, good());
  EXPECT_THAT(reports(), ElementsAre(""));
  take(supervisor_->commit(kNew));
  EXPECT_THAT(orders(), ElementsAre(std::pair(Order::kCommit, 2U)));
  take(supervisor_->drop(1));
  EXPECT_THAT(orders(), ElementsAre(std::pair(Order::kDrop, 1U)));
}

TEST_F(SupervisorWeights, OneRankIsEnoughToFail) {
  WeightsPrepared other = good();
  other.fingerprint = 23;
  WeightsPrepared damaged = good();
  damaged.failure = "a leaf is damaged";
  WeightsPrepared slower = good();
  slower.numerics_id = "m";
  for (const auto& [said, why] :
       {std::pair(other, "rank 1 has weights 0000000000000017 at new, not 0000000000000016"),
        std::pair(damaged, "rank 1: a leaf is damaged"),
        std::pair(slower, "rank 1 would compute as m, not n")}) {
    take(supervisor_->prepare(now_, kNew));
    prepared(0, good());
    prepared(1, said);
    EXPECT_THAT(reports(), ElementsAre(HasSubstr(why)));
    take(supervisor_->drop(2));
    prepared(1, good());  // too late
    EXPECT_THAT(reports(), ElementsAre());
  }
  EXPECT_THAT(supervisor_->launched_weights(), ElementsAre(kOld));
}

TEST_F(SupervisorWeights, ADeadlineNamesTheRanksThatAreLate) {
  spec_.deadlines.push_ms = 500;
  spec_.deadlines.heartbeat_ms = 100000;
  supervisor_.emplace(spec_);
  take(supervisor_->start(now_));
  bring_up();
  take(supervisor_->prepare(now_, kNew));
  prepared(0, good());
  now_ += 499;
  take(supervisor_->on_timer(now_));
  EXPECT_THAT(reports(), ElementsAre());
  now_ += 1;
  take(supervisor_->on_timer(now_));
  EXPECT_THAT(reports(), ElementsAre(HasSubstr("1 of 2 ranks (1) did not have the new weights "
                                               "ready within 0.5 s")));
  EXPECT_EQ(supervisor_->status(), GroupStatus::kServing);
}

TEST_F(SupervisorWeights, ALossEndsThePreparation) {
  take(supervisor_->prepare(now_, kNew));
  relaunch();
  EXPECT_THAT(supervisor_->launched_weights(), ElementsAre(kOld));
  bring_up();
  prepared(0, good());
  prepared(1, good());
  EXPECT_THAT(reports(), ElementsAre());
}

TEST_F(SupervisorWeights, ALaunchLoadsWhatIsNeeded) {
  take(supervisor_->commit(kNew));
  relaunch();
  EXPECT_THAT(supervisor_->launched_weights(), ElementsAre(kOld, kNew));
  bring_up();
  take(supervisor_->drop(1));
  relaunch();
  EXPECT_THAT(supervisor_->launched_weights(), ElementsAre(kNew));
}

// A commit that comes when the group was lost a moment ago, and a drop while it loads.
TEST_F(SupervisorWeights, ChangesBetweenLaunchesAreNotLost) {
  take(supervisor_->on_process_exit(now_, supervisor_->epoch(), "rank 1 was killed"));
  take(supervisor_->commit(kNew));
  EXPECT_THAT(orders(), ElementsAre());
  take(supervisor_->on_all_gone(now_, supervisor_->epoch(), ""));
  now_ += spec_.deadlines.backoff_initial_ms;
  take(supervisor_->on_timer(now_));
  EXPECT_THAT(supervisor_->launched_weights(), ElementsAre(kOld, kNew));
  take(supervisor_->drop(1));
  EXPECT_THAT(orders(), ElementsAre());
  bring_up();
  EXPECT_THAT(orders(), ElementsAre(std::pair(Order::kDrop, 1U)));
}

}  // namespace
}  // namespace trireme
