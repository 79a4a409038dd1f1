#pragma once

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/cluster/group.h"
#include "tests/coordinator/serving_fake_ranks.h"

namespace trireme::fake {

// What a test decides about a fake group. Touched on the service's thread only, once it runs.
struct GroupScript {
  int32_t max_slots = 4;
  int32_t n_blocks = 64;
  int32_t max_batch_tokens = 64;
  std::string numerics_id = "fake";
  int n_stages = 1;
  bool serve_at_start = true;  // else the test calls come_up
  bool answer = true;          // false: plans are run, results are kept back
  // Called for every plan before it is run: true kills the group.
  std::function<bool(const StepPlan&)> kills;
  bool relaunches = true;  // after a loss, by itself
  bool breaks = false;     // after a loss, for good
  bool stops = true;       // when told to, at once; else the test calls end_stop
  bool prepares = true;    // further weights, at once; else the test calls end_preparation
};

// A group of fake ranks in the service's own thread.
class FakeGroup final : public Group {
 public:
  FakeGroup(boost::asio::io_context& io, GroupScript what, Events events)
      : script(std::move(what)), io_(io), events_(std::move(events)) {}

  void start() override {
    status_ = GroupStatus::kLoading;
    if (script.serve_at_start) later([this] { come_up(); });
  }

  void send(StepPlan&& plan) override {
    EXPECT_EQ(status_, GroupStatus::kServing);
    EXPECT_EQ(plan.epoch, epoch_);
    if (script.kills && script.kills(plan)) {
      lose("rank_exit", "rank 0 was killed");  // the hard case: before send returns
      return;
    }
    EXPECT_EQ(loaded.count(plan.generation), 1U) << "a plan of weights that are not loaded";
    plans_.push_back(std::move(plan));
    run_plans();
  }

  void send_mask(const TokenMask& mask) override {
    if (status_ != GroupStatus::kServing || mask.epoch != epoch_) return;
    ranks_->mask(mask);
    run_plans();
  }

  void prepare(const WeightsFile& file) override {
    EXPECT_EQ(status_, GroupStatus::kServing);
    preparing_ = file.generation;
    if (script.prepares) later([this] { end_preparation(""); });
  }
  void end_preparation(const std::string& failure) {
    if (const uint64_t generation = std::exchange(preparing_, 0); generation != 0)
      events_.on_prepared(generation, failure);
  }
  void commit(const WeightsFile& file) override { loaded.insert(file.generation); }
  void drop(uint64_t generation) override {
    preparing_ = 0;
    loaded.erase(generation);
  }

  void stop(std::function<void()> on_stopped) override {
    status_ = GroupStatus::kStopped;
    plans_.clear();
    results_.clear();
    if (script.stops) return later(std::move(on_stopped));
    on_stopped_ = std::move(on_stopped);
  }
  void end_stop() { std::exchange(on_stopped_, nullptr)(); }
  GroupStatus status() const override { return status_; }
  uint64_t epoch() const override { return epoch_; }
  int n_ranks_alive() const override { return status_ == GroupStatus::kServing ? 1 : 0; }
  std::vector<RankInfo> ranks() const override {
    RankInfo rank;
    rank.host = "here";
    return {rank};
  }

  void come_up() {
    if (status_ == GroupStatus::kStopped || status_ == GroupStatus::kBroken) return;
    ++epoch_;
    status_ = GroupStatus::kServing;
    ranks_.emplace(script.max_slots, script.n_blocks, script.max_batch_tokens);
    GroupCapacity capacity;
    capacity.kv_blocks = script.n_blocks;
    capacity.numerics_id = script.numerics_id;
    capacity.layout.pp = script.n_stages;
    events_.on_serving(capacity);
  }
  void lose(const std::string& cause, const std::string& detail) {
    results_.clear();
    plans_.clear();
    preparing_ = 0;
    status_ = GroupStatus::kBackoff;
    if (script.relaunches && !script.breaks) later([this] { come_up(); });
    events_.on_lost(cause, detail);
    if (script.breaks) break_for_good("the ranks crash again and again; see the log");
  }
  void break_for_good(const std::string& error) {
    status_ = GroupStatus::kBroken;
    events_.on_broken(error);
  }
  void answer_one() {
    if (results_.empty()) return;
    StepResult result = std::move(results_.front());
    results_.pop_front();
    events_.on_result(std::move(result));
  }

  GroupScript script;
  std::set<uint64_t> loaded = {0};  // generations

 private:
  // Those whose masks are there.
  void run_plans() {
    while (!plans_.empty() && ranks_->can_run(plans_.front())) {
      results_.push_back(ranks_->run(plans_.front()));
      plans_.pop_front();
      if (script.answer) later([this] { answer_one(); });
    }
  }

  void later(std::function<void()> what) { boost::asio::post(io_, std::move(what)); }

  boost::asio::io_context& io_;
  Events events_;
  GroupStatus status_ = GroupStatus::kStopped;
  uint64_t epoch_ = 0;
  uint64_t preparing_ = 0;
  std::function<void()> on_stopped_;
  std::optional<Ranks> ranks_;
  std::deque<StepPlan> plans_;  // not yet run
  std::deque<StepResult> results_;
};

}  // namespace trireme::fake
