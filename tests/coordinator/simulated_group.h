#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/cluster/formation.h"
#include "coordinator/cluster/group.h"
#include "coordinator/cluster/supervisor.h"
#include "tests/coordinator/serving_fake_ranks.h"
#include "tests/coordinator/simulated_clock.h"

namespace trireme::fake {

// What may go wrong in a simulated group, as probabilities.
struct SimulatedFaults {
  double launch_fails = 0.0;   // of a launch: at once,
  double launch_hangs = 0.0;   // or a rank never comes,
  double dies_loading = 0.0;   // or comes and goes
  double dies_at_plan = 0.0;   // of a plan: a rank is killed while it is in flight,
  double stops_at_plan = 0.0;  // or stopped, or cut off,
  double deadlocks_at_plan = 0.0;
  double host_goes_at_plan = 0.0;  // of a plan: a host is gone for a while, if there are several
  double kv_is_lost = 0.5;         // of a loss: the next launch finds no KV
  double prepare_fails = 0.0;      // of further weights, on one rank
  int max_losses = 0;              // then nothing goes wrong any more
  // A plan with this request's token at this position kills the group, always.
  RequestId poison = 0;
  int32_t poison_position = 0;
};

struct SimulatedCoverage {
  int n_losses = 0;
  int n_failed_launches = 0;
  int n_kept = 0;
  int n_smaller = 0;   // launches on fewer ranks than the last,
  int n_returned = 0;  // and on more
  int n_stale_results = 0;
};

// A group whose ranks are simulated under the real supervisor: what processes, sockets and timers
// do for ProcessGroup, virtual time does here. Messages of one rank keep their order, as on TCP;
// those of different ranks come as they like.
class SimulatedGroup final : public Group {
 public:
  SimulatedGroup(SimulatedClock& clock, std::mt19937_64& random, SimulatedFaults faults,
                 SimulatedCoverage& coverage, const LaunchSpec& spec, int32_t max_slots,
                 int32_t n_blocks, int32_t max_batch_tokens, Events events)
      : clock_(clock),
        random_(random),
        faults_(faults),
        coverage_(coverage),
        spec_(spec),
        max_slots_(max_slots),
        n_blocks_(n_blocks),
        max_batch_tokens_(max_batch_tokens),
        events_(std::move(events)),
        supervisor_(spec) {}

  size_t n_generations() const { return loaded_.size(); }

  // Losses for which a rank may be to blame.
  int n_blamed() const { return n_blamed_; }

  void start() override {
    if (!std::exchange(ticking_, true)) tick();
    perform(supervisor_.start(clock_.now()));
  }
  void stop(std::function<void()> on_stopped) override {
    on_stopped_ = std::move(on_stopped);
    perform(supervisor_.stop(clock_.now()));
  }
  GroupStatus status() const override { return supervisor_.status(); }
  uint64_t epoch() const override { return supervisor_.epoch(); }
  int n_ranks_alive() const override { return supervisor_.n_connected(); }
  std::vector<RankInfo> ranks() const override { return supervisor_.ranks(); }

  void send(StepPlan&& plan) override {
    if (supervisor_.status() != GroupStatus::kServing) return;
    plan.epoch = supervisor_.epoch();
    EXPECT_EQ(loaded_.count(plan.generation), 1U) << "a plan of weights that are not loaded";
    supervisor_.on_plan_sent(clock_.now());
    EXPECT_LE(supervisor_.n_plans_in_flight(),
              in_formation(spec_, supervisor_.formation()).job.max_plans_in_flight);
    plans_.push_back(std::move(plan));
    if (plans_.size() == 1) begin_plan();
  }

  void send_mask(const TokenMask& mask) override {
    if (supervisor_.status() == GroupStatus::kServing && mask.epoch == supervisor_.epoch())
      model_->mask(mask);
  }

  // Orders go out at once, as ProcessGroup's.
  void prepare(const WeightsFile& file) override {
    for (const SupervisorAction& each : supervisor_.prepare(clock_.now(), file)) perform_one(each);
  }
  void commit(const WeightsFile& file) override {
    for (const SupervisorAction& each : supervisor_.commit(file)) perform_one(each);
  }
  void drop(uint64_t generation) override {
    for (const SupervisorAction& each : supervisor_.drop(generation)) perform_one(each);
  }

 private:
  using Kind = SupervisorAction::Kind;

  // The ranks of one launch: what happens to them later finds them gone.
  struct Epoch {
    uint64_t number = 0;
    bool alive = true;      // the processes
    bool connected = true;  // the sockets
    bool silent = false;    // stopped, or cut off
    bool stuck = false;     // every rank waits
    uint64_t tick = 0;
  };

  bool chance(double p) { return std::bernoulli_distribution(p)(random_); }
  int64_t pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  bool may_fail(double p) { return n_losses_ < faults_.max_losses && chance(p) && ++n_losses_ > 0; }
  // The first launch works: a group that never served is given up when it fails.
  bool launch_may_fail(double p) { return epoch_->number > 1 && may_fail(p); }
  void later(int64_t delay_ms, std::function<void(Epoch&)> what) {
    clock_.after(delay_ms, [epoch = epoch_, what = std::move(what)] { what(*epoch); });
  }

  void tick() {
    clock_.after(20, [this] {
      perform(supervisor_.on_timer(clock_.now()));
      tick();
    });
  }

  void perform(SupervisorActions&& actions) {
    for (SupervisorAction& action : actions) pending_.push_back(std::move(action));
    if (std::exchange(performing_, true)) return;
    while (!pending_.empty()) {
      const SupervisorAction action = std::move(pending_.front());
      pending_.pop_front();
      perform_one(action);
    }
    performing_ = false;
  }

  void perform_one(const SupervisorAction& action) {
    switch (action.kind) {
      case Kind::kLaunch: return launch(action.epoch);
      case Kind::kAskHosts: return ask();
      case Kind::kKnock: return knock();
      case Kind::kKill: return kill();
      case Kind::kSendJob: return load(action.rank);
      case Kind::kSendStart: return start_ranks(action.keep_kv);
      case Kind::kSendWeights: return obey(action.order);
      case Kind::kReportPrepared:
        return events_.on_prepared(action.order.file.generation, action.text);
      case Kind::kReportServing: blames_ = false; return events_.on_serving(supervisor_.capacity());
      case Kind::kReportLost:
        blames_ |= action.cause != kRegroupCause;
        return events_.on_lost(action.cause, action.text);
      case Kind::kReportBroken: return events_.on_broken(action.text);
      case Kind::kSendDrain: return drain();
      case Kind::kReportStopped: return stopped();
      case Kind::kTerminate:
      case Kind::kReportLoading:
      case Kind::kReportWaiting: return;
    }
  }

  void drain() {
    later(pick(0, 60), [this](Epoch& epoch) {
      if (!epoch.alive || epoch.silent || epoch.stuck) return;
      epoch.alive = false;
      gone_after(pick(0, 40));
    });
  }
  // With what outlives the ranks.
  void stopped() {
    n_blamed_ += std::exchange(kv_is_there_, false) && blames_ ? 1 : 0;
    clock_.after(1, std::exchange(on_stopped_, nullptr));
  }

  const Layout& layout() const { return supervisor_.formation().choice.layout; }
  int n_ranks() const { return layout().n_ranks(); }
  // Fewer ranks hold fewer.
  int32_t n_blocks() const { return n_blocks_ * n_ranks() / spec_.job.layout.n_ranks(); }
  bool is_gone(const std::string& host) const {
    return host == gone_host_ && clock_.now() < gone_until_ms_;
  }

  void ask() {
    std::vector<std::string> answered;
    for (const std::string& host : spec_.hosts) {
      if (!is_gone(host)) answered.push_back(host);
    }
    const bool all = answered.size() == spec_.hosts.size();
    clock_.after(all ? pick(20, 200) : spec_.deadlines.probe_ms,
                 [this, answered] { perform(supervisor_.on_hosts_asked(clock_.now(), answered)); });
  }

  // Only hosts with ranks have an address, and something may keep all knocks out.
  void knock() {
    ++n_knocks_;
    if (!knocks_pass_) return;
    for (const std::string& host : hosts_of_ranks(supervisor_.formation())) knocked_.insert(host);
    for (const std::string& host : knocked_) answer_knock(host, n_knocks_);
  }
  void answer_knock(const std::string& host, int number) {
    clock_.after(pick(1, 20), [this, host, number] {
      if (number != n_knocks_) return;
      if (!is_gone(host)) return supervisor_.on_host_reached(host);
      clock_.after(100, [this, host, number] { answer_knock(host, number); });
    });
  }

  // Ranks elsewhere, or others in number, find nothing of what the last ones left.
  void note_formation() {
    const Formation& now = supervisor_.formation();
    if (now == last_formation_) return;
    const int n_before = last_formation_.choice.layout.n_ranks();
    coverage_.n_smaller += n_ranks() < n_before ? 1 : 0;
    coverage_.n_returned += n_ranks() > n_before ? 1 : 0;
    n_blamed_ += std::exchange(kv_is_there_, false) && blames_ ? 1 : 0;
    last_formation_ = now;
  }
  void obey(const WeightsOrder& order) {
    const uint64_t generation = order.file.generation;
    if (order.kind == WeightsOrder::Kind::kCommit) {
      EXPECT_EQ(n_prepared_[generation], n_ranks()) << "not every rank has it ready";
      loaded_.insert(generation);
    } else if (order.kind == WeightsOrder::Kind::kDrop) {
      loaded_.erase(generation);
      for (const StepPlan& plan : plans_) EXPECT_NE(plan.generation, generation) << "in use";
    } else {
      for (int rank = 0; rank < n_ranks(); ++rank) prepare_rank(rank, order.file);
    }
  }

  void prepare_rank(int rank, const WeightsFile& file) {
    later(pick(1, 400), [this, rank, file](Epoch& epoch) {
      if (!epoch.alive || !epoch.connected || epoch.silent) return;
      WeightsPrepared prepared{
          .generation = file.generation, .fingerprint = file.fingerprint, .numerics_id = "fake"};
      if (chance(faults_.prepare_fails)) prepared.failure = "a leaf is damaged";
      n_prepared_[file.generation] += prepared.failure.empty() ? 1 : 0;
      perform(supervisor_.on_prepared(clock_.now(), epoch.number, rank, prepared));
    });
  }

  void launch(uint64_t number) {
    ++n_knocks_;
    note_formation();
    epoch_ = std::make_shared<Epoch>(Epoch{.number = number});
    plans_.clear();
    if (launch_may_fail(faults_.launch_fails)) {
      ++coverage_.n_failed_launches;
      epoch_->alive = false;
      perform(supervisor_.on_launch_failed(clock_.now(), number, "no such host"));
      return;
    }
    for (const std::string& host : last_formation_.hosts) {
      if (is_gone(host)) return;
    }
    const int64_t missing = launch_may_fail(faults_.launch_hangs) ? pick(0, n_ranks() - 1) : -1;
    for (int rank = 0; rank < n_ranks(); ++rank) {
      if (rank == missing) continue;
      later(pick(1, 80), [this, rank](Epoch& epoch) {
        if (!epoch.alive) return;
        RankHello hello;
        hello.epoch = epoch.number;
        hello.world_rank = rank;
        hello.world_size = n_ranks();
        hello.host = "here";
        Supervisor::HelloAnswer answer;
        perform(supervisor_.on_hello(clock_.now(), hello, answer));
        if (answer.verdict == Supervisor::HelloVerdict::kAccepted) beat(rank);
      });
    }
    if (launch_may_fail(faults_.dies_loading)) {
      later(pick(1, 300), [this](Epoch& epoch) { die(epoch); });
    }
  }

  void beat(int rank) {
    later(spec_.job.heartbeat_ms + pick(0, 30), [this, rank](Epoch& epoch) {
      if (!epoch.alive || !epoch.connected) return;
      if (!epoch.silent) {
        RankState state;
        state.tick = epoch.tick;
        state.activity = epoch.stuck      ? RankActivity::kWaiting
                         : plans_.empty() ? RankActivity::kIdle
                                          : RankActivity::kComputing;
        perform(supervisor_.on_state(clock_.now(), epoch.number, rank, state));
      }
      beat(rank);
    });
  }

  void load(int rank) {
    later(pick(5, 200), [this, rank](Epoch& epoch) {
      if (!epoch.alive || !epoch.connected) return;
      RankReady ready;
      ready.kv_blocks = n_blocks();
      ready.kv_kept = kv_is_there_ ? n_blocks() : 0;
      ready.numerics_id = "fake";
      perform(supervisor_.on_ready(clock_.now(), epoch.number, rank, ready));
    });
  }

  void start_ranks(bool keep_kv) {
    EXPECT_TRUE(kv_is_there_ || !keep_kv);
    coverage_.n_kept += keep_kv ? 1 : 0;
    if (keep_kv)
      model_->relaunch();
    else
      model_.emplace(max_slots_, n_blocks(), max_batch_tokens_);
    kv_is_there_ = true;
    loaded_.clear();
    for (const WeightsFile& file : supervisor_.launched_weights()) loaded_.insert(file.generation);
  }

  // The oldest plan goes through the ranks, unless something happens to them meanwhile.
  void begin_plan() {
    const int64_t duration = chance(0.002) ? pick(5000, 30000) : pick(1, 30);
    if (kills(plans_.front())) {
      later(pick(0, duration), [this](Epoch& epoch) { die(epoch, /*own_fault=*/true); });
    } else if (may_fail(faults_.dies_at_plan)) {
      later(pick(0, duration), [this](Epoch& epoch) { die(epoch); });
    } else if (may_fail(faults_.stops_at_plan)) {
      later(pick(0, duration), [](Epoch& epoch) { epoch.silent = true; });
    } else if (spec_.hosts.size() > 1 && may_fail(faults_.host_goes_at_plan)) {
      later(pick(0, duration), [this](Epoch& epoch) { lose_a_host(epoch); });
    } else if (may_fail(faults_.deadlocks_at_plan)) {
      epoch_->stuck = true;
      ++n_blamed_;
      return;
    }
    end_plan_after(duration);
  }

  void end_plan_after(int64_t duration) {
    later(duration, [this](Epoch& epoch) {
      if (!epoch.alive || epoch.silent || epoch.number != supervisor_.epoch()) return;
      if (plans_.empty()) return;
      if (!model_->can_run(plans_.front())) return end_plan_after(1);
      StepResult result = model_->run(plans_.front());
      result.world_rank = layout().world_rank(layout().pp - 1, 0);
      plans_.pop_front();
      ++epoch.tick;
      answer(std::move(result));
      if (!plans_.empty()) begin_plan();
    });
  }

  // Results of one rank arrive in order, now and then late, and what was sent before a death may
  // still arrive after it.
  void answer(StepResult&& result) {
    last_arrival_ms_ =
        std::max(last_arrival_ms_, clock_.now() + (chance(0.02) ? pick(50, 200) : pick(0, 3)));
    clock_.after(last_arrival_ms_ - clock_.now(), [this, result = std::move(result)]() mutable {
      const uint64_t number = result.epoch;
      if (!supervisor_.on_result(clock_.now(), number, result.world_rank)) {
        ++coverage_.n_stale_results;
        return;
      }
      model_->confirm(result.step_id);
      events_.on_result(std::move(result));
    });
  }

  bool kills(const StepPlan& plan) const {
    for (const SequencePlan& part : plan.sequences) {
      const auto end = part.start_position + static_cast<int32_t>(part.input_ids.size());
      if (part.request_id == faults_.poison && end > faults_.poison_position) return true;
    }
    return false;
  }

  void lose_a_host(Epoch& epoch) {
    gone_host_ =
        spec_.hosts[static_cast<size_t>(pick(0, static_cast<int64_t>(spec_.hosts.size()) - 1))];
    gone_until_ms_ = clock_.now() + pick(100, 60000);
    const std::vector<std::string>& hosts = last_formation_.hosts;
    if (std::find(hosts.begin(), hosts.end(), gone_host_) != hosts.end()) epoch.silent = true;
  }

  // One rank is killed: its exit and the end of its socket are noticed in any order.
  void die(Epoch& epoch, bool own_fault = false) {
    if (!epoch.alive || epoch.number != supervisor_.epoch()) return;
    ++coverage_.n_losses;
    epoch.alive = false;
    if (own_fault || chance(faults_.kv_is_lost)) {
      kv_is_there_ = false;
      ++n_blamed_;
    }
    const auto rank = static_cast<int>(pick(0, n_ranks() - 1));
    later(pick(0, 20), [this](Epoch& gone) {
      perform(supervisor_.on_process_exit(clock_.now(), gone.number, "a rank was killed"));
    });
    later(pick(0, 20), [this, rank](Epoch& gone) {
      if (!gone.connected) return;
      perform(supervisor_.on_disconnect(clock_.now(), gone.number, rank, "closed"));
    });
    gone_after(pick(0, 40));
  }

  void kill() {
    epoch_->alive = false;
    if (std::exchange(epoch_->connected, false)) {
      for (int rank = 0; rank < n_ranks(); ++rank) {
        if (!supervisor_.is_connected(rank)) continue;
        perform(supervisor_.on_disconnect(clock_.now(), epoch_->number, rank, "closed"));
      }
    }
    gone_after(pick(0, 40));
  }

  void gone_after(int64_t delay_ms) {
    later(delay_ms, [this](Epoch& epoch) {
      perform(supervisor_.on_all_gone(clock_.now(), epoch.number, ""));
    });
  }

  SimulatedClock& clock_;
  std::mt19937_64& random_;
  const SimulatedFaults faults_;
  SimulatedCoverage& coverage_;
  const LaunchSpec spec_;
  const int32_t max_slots_;
  const int32_t n_blocks_;
  const int32_t max_batch_tokens_;
  const Events events_;
  Supervisor supervisor_;
  std::shared_ptr<Epoch> epoch_ = std::make_shared<Epoch>();
  std::deque<StepPlan> plans_;  // not yet run; the first is under way
  std::optional<Ranks> model_;
  Formation last_formation_ = whole_formation(spec_);
  std::string gone_host_;
  int64_t gone_until_ms_ = 0;
  const bool knocks_pass_ = chance(0.7);
  std::set<std::string> knocked_;  // hosts
  int n_knocks_ = 0;
  bool blames_ = false;                 // the loss before the present launch was not wanted
  std::set<uint64_t> loaded_;           // generations
  std::map<uint64_t, int> n_prepared_;  // ranks, by generation
  bool kv_is_there_ = false;            // in memory that outlives the ranks
  int n_losses_ = 0;
  int n_blamed_ = 0;
  int64_t last_arrival_ms_ = 0;
  std::deque<SupervisorAction> pending_;
  bool performing_ = false;
  bool ticking_ = false;
  std::function<void()> on_stopped_;
};

}  // namespace trireme::fake
