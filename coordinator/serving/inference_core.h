#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/cluster/group.h"
#include "coordinator/serving/inference_service.h"
#include "coordinator/serving/scheduler.h"
#include "coordinator/serving/serving_observer.h"

namespace trireme {

struct CoreState;

struct InferenceCoreOptions {
  SchedulerConfig scheduler;  // of each replica
  int32_t n_replicas = 1;
  WeightsFile weights;        // that the groups launch with
  int32_t max_waiting = 256;  // live requests beyond those that the slots of all replicas hold
  // From token to token of a stream while prompts are computed: their chunks are made as small as
  // that needs (ChunkBudget). 0: no target.
  int32_t itl_target_ms = 0;
  int32_t sleep_timeout_ms = 600000;  // for requests that SleepMode::kWait waits for
  int32_t stop_timeout_ms = 15000;    // for all groups to end; longer than a group's own deadline
  // For requests with a grammar; null: they end with an error.
  std::shared_ptr<const GuideMaker> guides;
  int n_mask_threads = 0;  // that follow them; 0: the service's own
  // Empty: the steady clock. From any thread.
  std::function<std::chrono::steady_clock::time_point()> clock;
};

// What becomes of the replicas, for people. Called on the service's thread; must not block. Members
// left empty are skipped.
struct ReplicaListener {
  std::function<void(int replica, uint64_t loaded_bytes, uint64_t total_bytes)> on_loading;
  std::function<void(int replica, const GroupCapacity& capacity)> on_serving;
  std::function<void(int replica, const std::string& cause, const std::string& detail)> on_lost;
  std::function<void(int replica, const std::string& error)> on_broken;
  // One that joins, before its ranks are started; one that has left, when its ranks have ended.
  std::function<void(int replica)> on_joining;
  std::function<void(int replica)> on_left;
  // The last request of these weights has ended, and the ranks unmap them.
  std::function<void(const std::string& id)> on_weights_dropped;
  // kAsleep when the last rank has ended; kAwake when all serve again.
  std::function<void(SleepPhase phase)> on_sleep;
};

// How a change of weights goes. Called on the service's thread; must not block.
struct PushListener {
  std::function<void(uint64_t loaded_bytes, uint64_t total_bytes)> on_progress;  // of all ranks
  // Once, at the end. `failure`: why nothing has changed; empty: new requests get the new weights,
  // and `n_before` requests go on with those before.
  std::function<void(const std::string& failure, int32_t n_before)> on_end;
};

// One replica as it is now.
struct ReplicaSnapshot {
  int replica = 0;
  bool leaving = false;
  GroupStatus status = GroupStatus::kStopped;
  uint64_t epoch = 0;
  Layout layout;  // of the last launch that served
  int n_ranks_alive = 0;
  std::vector<RankInfo> ranks;
  int32_t n_running = 0;
  int32_t n_waiting = 0;
  int32_t n_kv_blocks = 0;
  int32_t n_unheld_kv_blocks = 0;  // by any request
  double kv_fragmentation = 0.0;   // Scheduler::kv_fragmentation
  uint64_t loaded_bytes = 0;       // of the launch under way
  uint64_t total_bytes = 0;
  std::string numerics_id;  // of the last launch that served
  uint64_t working_us = 0;  // all time so far with a plan in flight
};

// The inference service over one or more groups, each with a scheduler of its own, on one thread of
// its own. A request goes to the replica where it has least to wait for, cached prefixes counted;
// when that is lost, to another one that serves and computes the same bits, else it waits for the
// relaunch.
class InferenceCore final : public InferenceService {
 public:
  using GroupFactory = std::function<std::unique_ptr<Group>(boost::asio::io_context& io,
                                                            int replica, Group::Events events)>;

  // The factory is called n_replicas times, here; what it throws goes to the caller. And once for
  // each replica beyond these that joins, on the service's thread.
  InferenceCore(InferenceCoreOptions options, GroupFactory make_group, ServingObserver observer,
                ReplicaListener listener);
  ~InferenceCore() override;  // stops

  // Starts the groups on a thread of its own.
  void start();
  // The same on the calling thread, until another one calls stop(). Ranks die with the thread that
  // started them, and only the main thread outlives an exec.
  void run();

  Result<RequestId> submit(GenerateRequest request, EventHandler on_event) override;
  void cancel(RequestId id, FinishReason counted_as) override;
  ServiceStatus status() const override;
  std::shared_ptr<const ServedWeights> weights() const override;

  // From any thread. New requests get the weights of another packed file, once every rank of every
  // replica has it ready; else none does. Those that began before go on with theirs. Whether the
  // model is alike is the caller's to check. The file's generation is given here.
  void push(WeightsFile file, PushListener push_listener);
  // From any thread. Ends a push that is under way, and refuses others; for a service that ends.
  // Nobody will wake it up, so requests that it keeps asleep end, too.
  void refuse_changes(const std::string& why);

  // From any thread; one change at a time. Called once, on the service's thread; must not block.
  // `failure`: why it is as it was before, one line, or empty.
  using ReplicaHandler = std::function<void(int replica, const std::string& failure)>;
  // Starts the ranks of another replica: the first of those that have left, or, `anew` or where
  // there is none, one that never was. Ends when they serve.
  void add_replica(bool anew, ReplicaHandler on_end);
  // Requests that wait there go to other replicas at once, those that run there end first, or go
  // elsewhere when `patience` is over (with the same tokens, which are computed again); then its
  // ranks end. Its number is free then.
  void remove_replica(int replica, std::chrono::milliseconds patience, ReplicaHandler on_end);

  void sleep(SleepMode mode, SleepHandler on_end) override;
  void wake_up(SleepHandler on_end) override;

  // From any thread. Refuses new requests from now on; calls back on the service's thread once the
  // last one has ended (at once when there is none).
  void drain(std::function<void()> on_drained);

  // Ends all groups, and requests still alive with kError. Returns when the thread has ended. Not
  // from the service's own thread.
  void stop();

  // From any thread. Without those that have left.
  std::vector<ReplicaSnapshot> replicas() const;

  // ---- a handover to another program in this process (coordinator/handover) ----
  // From any thread but the service's.

  // Runs `task` on the service's thread; returns when it has run.
  void on_service(const std::function<void()>& task);
  // Makes no more plans and waits for those in flight. Why that cannot be, or "". To be followed
  // by go_on() unless the process execs.
  std::string hold_plans(std::chrono::milliseconds deadline);
  // And then holds the groups.
  std::string hold_groups(std::chrono::milliseconds deadline);
  void go_on();
  // After hold_groups(), on the service's thread. Nothing when a group was lost meanwhile.
  std::optional<CoreState> state();

  // Before start() or run(): as another service was.
  void restore(CoreState&& state);
  // The handler of a restored request. False: there is no such request.
  bool listen(RequestId id, EventHandler on_event);
  // Ends those that nobody listens to.
  void cancel_unheard();

 private:
  std::string wait_held(std::chrono::milliseconds deadline, const std::function<bool()>& done);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trireme
