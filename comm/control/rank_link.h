#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "comm/control/rank_state.h"
#include "comm/control/step_plan.h"

namespace trireme {

// What the coordinator wants done, in the order in which it said so.
using RankTask = std::variant<StepPlan, WeightsOrder>;

// A rank's side of the control connection. Owns a reader thread, which queues plans, and a thread
// that sends heartbeats, on the connection and in datagrams beside it. When nothing is heard for
// JobSpec::silence_ms or cut_off_ms, the coordinator closes the connection or fences the epoch, the
// process exits at once with status kExitOrphaned (its peers and the supervisor see that).
class RankLink {
 public:
  struct Options {
    std::string address;  // host:port of the coordinator; tls:// before it where that asks for TLS
    RankHello hello;
    int32_t connect_timeout_ms = 10000;
  };
  static constexpr int kExitOrphaned = 75;

  // Dials, says hello, waits for the job. Throws EnvironmentError with cause and mend.
  static std::unique_ptr<RankLink> connect(const Options& options);
  ~RankLink();

  const JobSpec& job() const;

  // Thread-safe, cheap, no allocation: the next heartbeat carries it.
  void set_activity(RankActivity activity, int32_t op = 0, int32_t peer = -1);
  void tick();
  void set_loaded(uint64_t loaded_bytes, uint64_t total_bytes);
  void add_busy_us(uint64_t us);
  // with_stage: with another stage of the pipeline.
  void add_comm_us(uint64_t us, bool with_stage);

  // Says ready, then waits for the other ranks. Throws EnvironmentError when the group is given up.
  GroupStart ready_and_wait_start(const RankReady& ready);

  // A fatal condition, told to the coordinator before the process exits. Of a group that serves:
  // one that no other start would mend.
  void send_failure(const std::string& message);

  // Waits for the next task; false when the coordinator asked to end (drain).
  bool next_task(RankTask& task);
  // The mask of one sequence of a plan. Without one in time the process exits: the coordinator is
  // gone, and no token is ever drawn without it.
  TokenMask wait_mask(uint64_t step_id, uint64_t request_id);
  void send_result(const StepResult& result);
  void send_prepared(const WeightsPrepared& prepared);

 private:
  struct State;
  explicit RankLink(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace trireme
