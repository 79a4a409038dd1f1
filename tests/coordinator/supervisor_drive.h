#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/cluster/supervisor.h"

namespace trireme {

inline LaunchSpec two_rank_spec() {
  LaunchSpec spec;
  spec.job.layout = {.tp = 2, .pp = 1};
  return spec;
}

inline RankState state_of(RankActivity activity, uint64_t tick) {
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
  int n_asked(SupervisorAction::Kind kind) {
    return static_cast<int>(std::erase_if(asked, [kind](const auto& a) { return a.kind == kind; }));
  }
  std::optional<SupervisorAction> last(SupervisorAction::Kind kind) const {
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

}  // namespace trireme
