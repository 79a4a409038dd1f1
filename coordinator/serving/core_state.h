#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "coordinator/serving/chunk_budget.h"
#include "coordinator/serving/inference_core.h"
#include "coordinator/serving/mask_maker.h"
#include "coordinator/serving/request_times.h"
#include "coordinator/serving/step_times.h"

namespace trireme {

// What callers on any thread share with the service's thread.
struct CoreGate {
  mutable std::mutex mutex;
  ServiceStatus status;  // as of the last change
  RequestId last_id = 0;
  int64_t n_live = 0;                            // accepted and not ended
  int64_t n_slots = 0;                           // of all replicas
  std::map<std::string, int64_t> n_live_of;      // by tenant; none of 0
  int32_t kv_blocks = 0;                         // of the largest replica; 0: not known yet
  std::shared_ptr<const ServedWeights> weights;  // of new requests
  bool keeps_requests = false;                   // asleep, with those of SleepMode::kKeep
  bool running = false;                          // the service's thread
  bool stopped = false;
  std::condition_variable ended;
  std::vector<ReplicaSnapshot> replicas;  // as of the last call of InferenceCore::replicas
};

// All but the gate is touched by the service's thread alone once it runs.
struct InferenceCore::Impl {
  using TimePoint = StepTimes::TimePoint;

  struct Replica {
    explicit Replica(const SchedulerConfig& config) : scheduler(config) {}

    int index = 0;
    Scheduler scheduler;
    std::unique_ptr<Group> group;
    bool broken = false;
    bool leaving = false;
    bool out = false;         // without ranks until it joins
    std::string numerics_id;  // of the last launch that served
    Layout layout;            // of it
    uint64_t n_preemptions_told = 0;
    PrefixCacheCounts prefix_counts_told;
    GuessCounts guess_counts_told;
    uint64_t loaded_bytes = 0;
    uint64_t total_bytes = 0;
    StepTimes times;
    std::optional<ChunkBudget> chunks;              // of this launch; none without a target
    bool prepared = false;                          // in the push under way
    std::pair<uint64_t, uint64_t> preparing_bytes;  // loaded, of all

    int32_t load() const { return scheduler.n_running() + scheduler.n_waiting(); }
    bool in_use() const { return !broken && !out; }
  };
  struct Record {
    EventHandler handler;
    Replica* replica = nullptr;
    RequestTimes times;
    bool numerics_told = false;
    std::string tenant;
    std::shared_ptr<GuidedRequest> guided;  // null before the first mask
  };

  struct Push {
    WeightsFile file;
    PushListener listener;
  };
  // Of the set of replicas.
  struct Change {
    Replica* replica = nullptr;
    TimePoint deadline;   // of one that leaves: then what runs there goes elsewhere
    bool ending = false;  // its ranks were told to
    ReplicaHandler on_end;
  };
  struct OldWeights {
    uint64_t generation = 0;
    std::string id;
    std::weak_ptr<const ServedWeights> held;
  };

  struct Sleep {
    SleepPhase phase = SleepPhase::kAwake;
    SleepMode mode = SleepMode::kAbort;
    TimePoint deadline;   // of kSettling
    size_t n_ending = 0;  // groups, in kAsleep
    std::vector<SleepHandler> sleepers;
    std::vector<SleepHandler> wakers;
  };

  Impl(InferenceCoreOptions core_options, ServingObserver serving_observer,
       ReplicaListener replica_listener);

  TimePoint now() const {
    return options.clock ? options.clock() : std::chrono::steady_clock::now();
  }

  bool begin();
  void serve();

  Group::Events group_events(Replica& replica);
  void group_serving(Replica& replica, const GroupCapacity& capacity);
  void group_result(Replica& replica, StepResult&& result);
  void group_lost(Replica& replica, const std::string& cause, const std::string& detail);
  void group_broken(Replica& replica, const std::string& error);

  void begin_push(WeightsFile file, PushListener push_listener);
  std::string why_not_push() const;
  void group_prepared(Replica& replica, uint64_t generation, const std::string& failure);
  void group_preparing(Replica& replica, uint64_t loaded_bytes, uint64_t total_bytes);
  void commit_push();
  void fail_push(const std::string& why);
  int32_t n_requests_of(uint64_t generation) const;
  void drop_old_weights();
  void watch_old_weights();

  std::string why_no_change() const;
  void begin_join(bool anew, ReplicaHandler on_end);
  Replica& free_replica(bool anew);
  void begin_leaving(int index, std::chrono::milliseconds patience, ReplicaHandler on_end);
  std::string why_not_leave(int index) const;
  void watch_change();
  void watch_leaving();
  void end_ranks(const std::string& failure);
  void end_change(const std::string& failure);

  std::string why_not_sleep() const;
  void begin_sleep(SleepMode mode, SleepHandler on_end);
  void watch_settling();
  bool close_when_idle();
  void fall_asleep();
  void group_asleep();
  void stay_awake(const std::string& why);
  void abort_requests(const std::string& why);
  void abort(RequestId id, const std::string& why);
  bool is_closed() const;
  void begin_wake(SleepHandler on_end);
  void start_waking();
  void watch_waking();
  void set_phase(SleepPhase phase);
  static void tell_all(std::vector<SleepHandler>& handlers, const std::string& failure);

  Result<RequestId> enter(const GenerateRequest& request);
  void submitted(RequestId id, GenerateRequest&& request, EventHandler&& handler, TimePoint at);
  void cancelled(RequestId id, FinishReason counted_as);
  void end_all(const std::string& error);
  void end_with_error(RequestId id);
  void stop_groups(std::function<void()> on_stopped);

  bool may_go_on(const Replica& replica, const Sequence& sequence, const Replica* home) const;
  Replica* choose(const Sequence& sequence, Replica* home);
  void place(std::unique_ptr<Sequence> sequence, Replica* replica);
  void rehome(Replica& from);

  void settle();
  void settle_soon();
  void pump(Replica& replica);
  void tell_counts(Replica& replica);
  std::vector<MaskMaker::Order> order_masks(Replica& replica, const StepPlan& plan);
  void mask_made(Replica& replica, const TokenMask& mask, const std::string& failure);
  void deliver(SequenceEvent&& event);
  void forget(RequestId id);
  void publish();
  void tell_drained();
  std::vector<ReplicaSnapshot> snapshot() const;

  const InferenceCoreOptions options;
  const ServingObserver observer;
  const ReplicaListener listener;
  GroupFactory make_group;

  CoreGate gate;
  boost::asio::io_context io{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{io.get_executor()};
  std::vector<std::unique_ptr<Replica>> replicas;
  // Outlives the records: what is guided refers to its threads.
  MaskMaker masks{io, options.guides, options.scheduler.vocab_size, options.n_mask_threads};
  std::unordered_map<RequestId, std::shared_ptr<Record>> records;
  std::vector<SequenceEvent> events;  // not yet delivered
  std::string problem = "the model is being loaded";
  std::string ended_because;                     // set once by stop
  WeightsFile weights_file;                      // of new requests
  std::shared_ptr<const ServedWeights> weights;  // the same
  std::optional<OldWeights> old_weights;         // until nobody holds them
  std::optional<Push> push;                      // under way
  std::optional<Change> change;                  // the same
  boost::asio::steady_timer change_timer{io};
  uint64_t last_generation = 0;
  std::string no_changes;  // why, or empty
  boost::asio::steady_timer old_weights_timer{io};
  Sleep sleeping;
  boost::asio::steady_timer sleep_timer{io};
  bool holding = false;  // no more plans
  bool settling = false;
  bool settle_again = false;
  bool settle_posted = false;
  std::vector<std::function<void()>> on_drained;
  std::thread thread;
};

}  // namespace trireme
