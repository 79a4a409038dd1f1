#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/control/rank_state.h"
#include "comm/control/step_plan.h"
#include "coordinator/cluster/launch_spec.h"

namespace boost::asio {
class io_context;
}

namespace trireme {

struct GroupState;

// Where one rank of a running group is.
struct RankInfo {
  int world_rank = 0;
  std::string host;
  std::string device;
  int64_t pid = 0;
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t workspace_bytes = 0;
  RankState last_state;
};

// What a group that is up can do.
struct GroupCapacity {
  Layout layout;  // may be another one after each launch
  int32_t kv_blocks = 0;
  bool kv_kept = false;  // they hold what the last group's steps put there
  std::string numerics_id;
  std::vector<RankInfo> ranks;
};

// The cause of a loss that the supervisor wanted, for a launch on a larger layout: no rank failed,
// and no request is to blame.
inline constexpr const char* kRegroupCause = "regroup";

enum class GroupStatus : uint8_t { kStopped, kLaunching, kLoading, kServing, kBackoff, kBroken };

// One replica: launches its ranks, accepts their control connections, watches them, relaunches them
// when one is lost. All calls and callbacks on the io_context's one thread.
class Group {
 public:
  struct Events {
    std::function<void(const GroupCapacity&)> on_serving;
    std::function<void(StepResult&&)> on_result;
    // A rank was lost: every plan in flight is void. The supervisor relaunches by itself.
    // `cause` is a short word for the metric (rank_exit, socket, heartbeat, stalled, launch,
    // regroup), `detail` one line for people.
    std::function<void(const std::string& cause, const std::string& detail)> on_lost;
    // The crash-loop breaker opened, or the first launch failed: no further tries. One line, cause
    // and mend.
    std::function<void(const std::string& error)> on_broken;
    // Aggregated over ranks.
    std::function<void(uint64_t loaded_bytes, uint64_t total_bytes)> on_loading;
    // Every rank has the weights of that generation ready, or `failure`, one line, says which rank
    // has not and why.
    std::function<void(uint64_t generation, const std::string& failure)> on_prepared;
  };

  virtual ~Group() = default;
  virtual void start() = 0;
  // Sends a plan to every rank. Only while serving; the epoch is filled in here.
  virtual void send(StepPlan&& plan) = 0;
  // To the rank that samples, after the plan that it is of; the epoch is the plan's. Dropped when
  // that group was lost.
  virtual void send_mask(const TokenMask& mask) = 0;
  // Further weights, while serving and while there is one generation: on_prepared follows, unless
  // on_lost or drop() comes first.
  virtual void prepare(const WeightsFile& file) = 0;
  // Plans of weights that were prepared follow. Every later launch loads them.
  virtual void commit(const WeightsFile& file) = 0;
  // No plan of these weights follows, prepared or in use before; no later launch loads them.
  virtual void drop(uint64_t generation) = 0;
  // Why the ranks that stop() ends could not be started again by start(); empty when they could.
  virtual std::string restart_problem() const { return ""; }
  // Asks the ranks to end, waits for them up to a deadline, kills what is left, cleans up. None of
  // their memory is left. start() may follow.
  virtual void stop(std::function<void()> on_stopped) = 0;
  virtual GroupStatus status() const = 0;
  virtual uint64_t epoch() const = 0;
  virtual int n_ranks_alive() const = 0;
  virtual std::vector<RankInfo> ranks() const = 0;

  // A handover of the group, with its ranks, to another coordinator (coordinator/handover). Why it
  // cannot be handed over now; empty when it can.
  virtual std::string handover_problem() const { return "its ranks cannot be handed over"; }
  // Only while serving, with no plan in flight: nothing more is sent or read, until go_on().
  virtual void hold() {}
  virtual bool is_held() const { return false; }
  virtual void go_on() {}
  virtual GroupState state();
};

// A group of real processes, started by the launcher that `spec` names. `taken`: what start() goes
// on with instead of launching; null for none. Throws EnvironmentError when that was another job.
std::unique_ptr<Group> make_process_group(boost::asio::io_context& io, LaunchSpec spec,
                                          Group::Events events, const GroupState* taken = nullptr);

}  // namespace trireme
