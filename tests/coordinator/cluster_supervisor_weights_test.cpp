// The supervisor's part in a change of weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "tests/coordinator/supervisor_drive.h"

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;
using Order = WeightsOrder::Kind;
using testing::ElementsAre;
using testing::HasSubstr;

const WeightsFile kOld{.generation = 1, .path = "old", .fingerprint = 11};
const WeightsFile kNew{.generation = 2, .path = "new", .fingerprint = 22};

LaunchSpec spec_with_weights() {
  LaunchSpec spec = two_rank_spec();
  spec.job.weights = {kOld};
  return spec;
}

class SupervisorWeights : public testing::Test, protected Drive {
 protected:
  explicit SupervisorWeights(const LaunchSpec& spec = spec_with_weights()) : Drive(spec) {
    bring_up();
  }

  void prepared(int rank, const WeightsPrepared& said) {
    take(supervisor.on_prepared(now, supervisor.epoch(), rank, said));
  }
  static WeightsPrepared good() { return {.generation = 2, .fingerprint = 22, .numerics_id = "n"}; }
  void lose() {
    take(supervisor.on_process_exit(now, supervisor.epoch(), "rank 1 was killed"));
    all_gone();
  }
  void relaunch() {
    lose();
    now += spec_with_weights().deadlines.backoff_initial_ms;
    for (int r = 0; r < 2; ++r) supervisor.on_heard(now, supervisor.epoch(), r);
    take(supervisor.on_timer(now));
    ASSERT_EQ(supervisor.status(), GroupStatus::kLaunching);
  }
  // What was sent about weights since the last call.
  std::vector<std::pair<Order, uint64_t>> orders() {
    std::vector<std::pair<Order, uint64_t>> all;
    for (const SupervisorAction& each : std::exchange(asked, {})) {
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

  std::vector<std::string> reports_;
};

TEST_F(SupervisorWeights, PreparedOnlyWhenEveryRankIs) {
  take(supervisor.prepare(now, kNew));
  EXPECT_THAT(orders(), ElementsAre(std::pair(Order::kPrepare, 2U)));
  prepared(0, good());
  prepared(0, good());
  EXPECT_THAT(reports(), ElementsAre());
  prepared(1, good());
  EXPECT_THAT(reports(), ElementsAre(""));
  take(supervisor.commit(kNew));
  EXPECT_THAT(orders(), ElementsAre(std::pair(Order::kCommit, 2U)));
  take(supervisor.drop(1));
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
       {std::pair(
            other,
            "rank 1 (host h, pid 0) has weights 0000000000000017 at new, not 0000000000000016"),
        std::pair(damaged, "rank 1 (host h, pid 0): a leaf is damaged"),
        std::pair(slower, "rank 1 (host h, pid 0) would compute as m, not n")}) {
    take(supervisor.prepare(now, kNew));
    prepared(0, good());
    prepared(1, said);
    EXPECT_THAT(reports(), ElementsAre(HasSubstr(why)));
    take(supervisor.drop(2));
    prepared(1, good());  // too late
    EXPECT_THAT(reports(), ElementsAre());
  }
  EXPECT_THAT(supervisor.launched_weights(), ElementsAre(kOld));
}

// No heartbeat is missed before the push is.
LaunchSpec spec_with_little_time() {
  LaunchSpec spec = spec_with_weights();
  spec.deadlines.push_ms = 500;
  spec.deadlines.heartbeat_ms = 100000;
  return spec;
}

class SupervisorWeightsInLittleTime : public SupervisorWeights {
 protected:
  SupervisorWeightsInLittleTime() : SupervisorWeights(spec_with_little_time()) {}
};

TEST_F(SupervisorWeightsInLittleTime, ADeadlineNamesTheRanksThatAreLate) {
  take(supervisor.prepare(now, kNew));
  prepared(0, good());
  now += 499;
  take(supervisor.on_timer(now));
  EXPECT_THAT(reports(), ElementsAre());
  now += 1;
  take(supervisor.on_timer(now));
  EXPECT_THAT(reports(), ElementsAre(HasSubstr("1 of 2 ranks (1) did not have the new weights "
                                               "ready within 0.5 s")));
  EXPECT_EQ(supervisor.status(), GroupStatus::kServing);
}

TEST_F(SupervisorWeights, ALossEndsThePreparation) {
  take(supervisor.prepare(now, kNew));
  relaunch();
  EXPECT_THAT(supervisor.launched_weights(), ElementsAre(kOld));
  bring_up();
  prepared(0, good());
  prepared(1, good());
  EXPECT_THAT(reports(), ElementsAre());
}

TEST_F(SupervisorWeights, ALaunchLoadsWhatIsNeeded) {
  take(supervisor.commit(kNew));
  relaunch();
  EXPECT_THAT(supervisor.launched_weights(), ElementsAre(kOld, kNew));
  bring_up();
  take(supervisor.drop(1));
  relaunch();
  EXPECT_THAT(supervisor.launched_weights(), ElementsAre(kNew));
}

// A commit that comes when the group was lost a moment ago, and a drop while it loads.
TEST_F(SupervisorWeights, ChangesBetweenLaunchesAreNotLost) {
  take(supervisor.on_process_exit(now, supervisor.epoch(), "rank 1 was killed"));
  take(supervisor.commit(kNew));
  EXPECT_THAT(orders(), ElementsAre());
  take(supervisor.on_all_gone(now, supervisor.epoch(), ""));
  now += spec_with_weights().deadlines.backoff_initial_ms;
  take(supervisor.on_timer(now));
  EXPECT_THAT(supervisor.launched_weights(), ElementsAre(kOld, kNew));
  take(supervisor.drop(1));
  EXPECT_THAT(orders(), ElementsAre());
  bring_up();
  EXPECT_THAT(orders(), ElementsAre(std::pair(Order::kDrop, 1U)));
}

}  // namespace
}  // namespace trireme
