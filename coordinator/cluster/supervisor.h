#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "comm/control/rank_state.h"
#include "coordinator/cluster/group.h"
#include "coordinator/cluster/launch_spec.h"
#include "coordinator/cluster/regrouping.h"

namespace trireme {

struct SupervisorState;

// What the supervisor wants done, in order.
struct SupervisorAction {
  enum class Kind : uint8_t {
    kLaunch,     // start the ranks of `epoch`, in formation()
    kAskHosts,   // whether they could start ranks; on_hosts_asked must follow
    kKnock,      // at hosts, until the next launch or knock; on_host_reached for those that answer
    kTerminate,  // SIGTERM to the processes of `epoch`
    kKill,       // close the connections of `epoch` and SIGKILL its processes
    kSendJob,    // the job to `rank`
    kSendStart,  // `kv_blocks` and `keep_kv` to every rank
    kSendDrain,  // drain to every connected rank
    kSendWeights,  // `order` to every rank
    kReportServing,
    kReportLost,     // `cause`, `text`
    kReportBroken,   // `text`
    kReportWaiting,  // `text`: "waits until ...", before the next launch
    kReportLoading,
    kReportStopped,
    kReportPrepared,  // `order.file`: every rank has it ready, or `text` says why not
  };
  Kind kind;
  uint64_t epoch = 0;
  int rank = 0;
  int32_t kv_blocks = 0;
  bool keep_kv = false;
  std::string cause;
  std::string text;
  WeightsOrder order;
};

using SupervisorActions = std::vector<SupervisorAction>;

// The life of one group of ranks as a state machine: events go in with the time, actions come out.
// It knows no clock, socket or process, so a virtual clock can drive it. Each launch is an epoch,
// with a number above all before; at most one epoch is live, and events of others are dropped.
//
//   stopped -> launching -> loading -> serving
//                 ^  \________|__________/ a rank is lost
//              backoff <---- dying ----> broken
//
// Times are milliseconds of any steady clock.
class Supervisor {
 public:
  explicit Supervisor(const LaunchSpec& spec);

  enum class HelloVerdict : uint8_t {
    kAccepted,
    kRefused,  // for good: `reason` says why
    kNotNow,   // hang up, the rank may try again
  };
  struct HelloAnswer {
    HelloVerdict verdict = HelloVerdict::kNotNow;
    std::string reason;
  };

  SupervisorActions start(int64_t now_ms);
  SupervisorActions stop(int64_t now_ms);
  SupervisorActions on_timer(int64_t now_ms);

  // Bytes of the rank came on its connection, perhaps not yet a whole frame.
  void on_heard(int64_t now_ms, uint64_t epoch, int rank);
  // A heartbeat that came besides the connection (comm/control/heartbeat_datagram).
  SupervisorActions on_datagram(int64_t now_ms, uint64_t epoch, int rank, const RankState& state,
                                int32_t unheard_ms);
  // The secret and the build were checked before.
  SupervisorActions on_hello(int64_t now_ms, const RankHello& hello, HelloAnswer& answer);
  SupervisorActions on_state(int64_t now_ms, uint64_t epoch, int rank, const RankState& state);
  SupervisorActions on_ready(int64_t now_ms, uint64_t epoch, int rank, const RankReady& ready);
  // The rank told that it cannot go on. One that served would tell the same after another launch:
  // the group is broken.
  SupervisorActions on_failure(int64_t now_ms, uint64_t epoch, int rank,
                               const std::string& message);
  // The rank's connection ended.
  SupervisorActions on_disconnect(int64_t now_ms, uint64_t epoch, int rank, const std::string& why);
  // The processes of the epoch could not be started at all.
  SupervisorActions on_launch_failed(int64_t now_ms, uint64_t epoch, const std::string& why);
  // One process that the launcher started ended: "rank 1 was killed by signal 9".
  SupervisorActions on_process_exit(int64_t now_ms, uint64_t epoch, const std::string& what);
  // No process of the epoch is left. `output`: the most telling line they wrote, or empty.
  SupervisorActions on_all_gone(int64_t now_ms, uint64_t epoch, const std::string& output);
  // Those that answered.
  SupervisorActions on_hosts_asked(int64_t now_ms, const std::vector<std::string>& hosts);
  void on_host_reached(const std::string& host) { regrouping_.on_reached(host); }

  // Weights besides those that the group computes with, while it serves. kReportPrepared comes
  // unless the group is lost or the file dropped before.
  SupervisorActions prepare(int64_t now_ms, const WeightsFile& file);
  SupervisorActions on_prepared(int64_t now_ms, uint64_t epoch, int rank,
                                const WeightsPrepared& prepared);
  // They were prepared: plans of them follow, and from now on every launch loads them.
  SupervisorActions commit(const WeightsFile& file);
  // No plan of them follows, and no launch loads them.
  SupervisorActions drop(uint64_t generation);
  // What the present launch was told to load.
  const std::vector<WeightsFile>& launched_weights() const { return launched_weights_; }

  void on_plan_sent(int64_t now_ms);
  // False: the result belongs to no plan in flight and must be dropped.
  bool on_result(int64_t now_ms, uint64_t epoch, int rank);

  // For a handover (coordinator/handover): of a group that serves. resume() instead of start().
  SupervisorState state() const;
  SupervisorActions resume(int64_t now_ms, uint64_t epoch, const SupervisorState& state);
  // Epochs go on after this one.
  void start_after(uint64_t epoch) { epoch_ = epoch; }
  // While nobody listened to the ranks, none of them was silent.
  void forgive_all(int64_t now_ms);

  GroupStatus status() const;
  // Waiting for on_all_gone.
  bool is_ending() const {
    return state_ == State::kDying || state_ == State::kDraining || state_ == State::kTerminating;
  }
  // Nothing will happen by the passing of time.
  bool is_at_rest() const { return state_ == State::kStopped || state_ == State::kBroken; }
  uint64_t epoch() const { return epoch_; }
  const Formation& formation() const { return regrouping_.formation(); }
  // For hosts that are asked now: how long one may take when others have answered.
  int64_t patience_ms() const;
  int n_plans_in_flight() const { return n_plans_in_flight_; }
  int n_connected() const;
  bool is_connected(int rank) const { return ranks_[static_cast<size_t>(rank)].connected; }
  GroupCapacity capacity() const;
  std::vector<RankInfo> ranks() const;
  void loaded(uint64_t& loaded_bytes, uint64_t& total_bytes) const;

 private:
  enum class State : uint8_t {
    kStopped,
    kLaunching,  // until every rank said hello
    kLoading,    // until every rank is ready
    kServing,
    kDying,  // a rank was lost: until no process is left
    kBackoff,
    kBroken,
    kDraining,    // told to stop: ranks end by themselves
    kTerminating  // told to stop: they did not
  };
  // How long ago something was heard.
  struct Hearing {
    int64_t last_ms = 0;
    int64_t forgiven_ms = 0;  // silence since then in which this process did not listen

    void heard(int64_t at_ms) { *this = {.last_ms = at_ms, .forgiven_ms = 0}; }
    int64_t silent_ms(int64_t now_ms) const { return now_ms - last_ms - forgiven_ms; }
    void forgive_pause(int64_t begin_ms, int64_t end_ms);
  };
  struct Rank {
    RankInfo info;
    bool connected = false;
    bool ready = false;
    int32_t kv_blocks = 0;
    int32_t kv_kept = 0;
    std::string numerics_id;
    bool prepared = false;         // of the preparation under way
    Hearing heard;                 // anything: a slow large result is a sign of life, too
    Hearing connection;            // of that, what came on its connection
    Hearing hears_us;              // what it heard from here, as datagrams tell
    int64_t told_hears_us_ms = 0;  // the last that did
    int64_t last_state_ms = 0;     // last heartbeat
    int64_t same_since_ms = 0;     // first heartbeat with the present tick and activity
  };
  static constexpr int64_t kLaunchGraceMs = 500;
  static constexpr int64_t kLeastPatienceMs = 300;
  static constexpr int64_t kLateFactor = 4;  // times what the last launch took
  // SIGKILL needs no consent; what outlives it hangs in the kernel, and its connection is closed.
  static constexpr int64_t kKillTimeoutMs = 3000;
  static constexpr int64_t kTerminateMs = 1000;

  // How a lost group goes down.
  enum class Ending : uint8_t {
    kAtOnce,
    kAfterGrace,  // leaves processes that are ending anyway the time to say why
  };

  bool is_live(uint64_t epoch) const;
  SupervisorActions take_state(int64_t now_ms, Rank& rank, const RankState& state);
  static void forgive_silence(int64_t now_ms, Rank& rank);
  int64_t launch_limit_ms() const;
  SupervisorActions launch(int64_t now_ms);
  SupervisorActions lose(int64_t now_ms, const std::string& cause, const std::string& text,
                         Ending ending);
  SupervisorActions after_death(int64_t now_ms, const std::string& output);
  void forget_loss();
  SupervisorActions all_ready(int64_t now_ms);
  SupervisorActions watch_launch(int64_t now_ms);
  SupervisorActions watch_steps(int64_t now_ms);
  std::optional<SupervisorActions> watch_heartbeats(int64_t now_ms);
  SupervisorActions watch_formation(int64_t now_ms);
  SupervisorActions regroup(int64_t now_ms);
  std::optional<SupervisorActions> watch_hosts(int64_t now_ms);
  SupervisorActions watch_preparation(int64_t now_ms);
  SupervisorActions end_preparation(const std::string& failure);
  SupervisorAction order(WeightsOrder::Kind kind, const WeightsFile& file) const;
  SupervisorActions watch_dying(int64_t now_ms);
  SupervisorActions watch_stopping(int64_t now_ms);
  void forgive_own_pauses(int64_t now_ms);
  std::string rank_name(int rank) const;
  std::string name_ranks(bool (*is_one)(const Rank&)) const;
  SupervisorAction action(SupervisorAction::Kind kind) const;

  const LaunchSpec spec_;
  Regrouping regrouping_;
  State state_ = State::kStopped;
  uint64_t epoch_ = 0;
  std::vector<Rank> ranks_;
  int64_t deadline_ms_ = 0;  // of the present state
  int64_t launched_at_ms_ = 0;
  int64_t last_launch_took_ms_ = 0;  // until all had dialled in, when they last had
  int n_late_launches_ = 0;          // in a row
  int64_t last_timer_ms_ = 0;
  int64_t last_progress_ms_ = 0;  // a tick, a result, or the first plan after none in flight
  int n_plans_in_flight_ = 0;
  bool ever_served_ = false;
  bool kill_sent_ = false;  // in kDying and kTerminating

  std::vector<WeightsFile> weights_;  // that a launch loads, oldest first
  std::vector<WeightsFile> launched_weights_;
  std::optional<WeightsFile> preparing_;
  int64_t preparation_deadline_ms_ = 0;

  bool hung_ = false;           // the last group that served
  bool late_ = false;           // the launch failed by launch_limit_ms alone
  bool hopeless_ = false;       // no launch would mend what was lost
  bool loss_reported_ = false;  // of the epoch that is dying
  bool wait_reported_ = false;  // for hosts, since then
  std::string loss_cause_;
  std::string loss_text_;
  int n_losses_in_row_ = 0;        // since the group last served
  std::deque<int64_t> losses_ms_;  // in the crash window
};

}  // namespace trireme
