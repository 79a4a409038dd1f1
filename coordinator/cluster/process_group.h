#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/cluster/control_server.h"
#include "coordinator/cluster/epoch_processes.h"
#include "coordinator/cluster/group.h"
#include "coordinator/cluster/heartbeat_socket.h"
#include "coordinator/cluster/host_knock.h"
#include "coordinator/cluster/host_probe.h"
#include "coordinator/cluster/supervisor.h"
#include "coordinator/handover/group_state.h"

namespace trireme {

// A group of real processes: the supervisor decides, this carries out. It turns connections,
// process exits and timers into the supervisor's events and its actions into frames, processes and
// the callbacks of Group::Events.
class ProcessGroup final : public Group {
 public:
  ProcessGroup(boost::asio::io_context& io, LaunchSpec spec, Group::Events events,
               const GroupState* taken);
  // Kills what still runs. Not from inside a callback of Events.
  ~ProcessGroup() override;

  void start() override;
  void send(StepPlan&& plan) override;
  void send_mask(const TokenMask& mask) override;
  void prepare(const WeightsFile& file) override;
  void commit(const WeightsFile& file) override;
  void drop(uint64_t generation) override;
  std::string restart_problem() const override;
  void stop(std::function<void()> on_stopped) override;
  GroupStatus status() const override { return supervisor_.status(); }
  uint64_t epoch() const override { return supervisor_.epoch(); }
  int n_ranks_alive() const override { return supervisor_.n_connected(); }
  std::vector<RankInfo> ranks() const override { return supervisor_.ranks(); }
  std::string handover_problem() const override;
  void hold() override;
  bool is_held() const override;
  void go_on() override;
  GroupState state() override;

 private:
  struct Peer {
    uint64_t epoch = 0;
    int rank = 0;
    uint64_t last_heartbeat = 0;  // number of the last that came in a datagram
  };
  using ConnectionId = ControlServer::ConnectionId;

  static int64_t now_ms();

  // Carries out what the supervisor asks. Callbacks may call back into this object: their actions
  // queue up behind the present ones.
  void perform(SupervisorActions&& actions);
  void perform_one(const SupervisorAction& action);
  JobSpec job_of(int rank);
  std::string job_shape() const;
  void resume(const GroupState& taken);
  void open_server(int listener);
  void open_heartbeats(const std::string& salt);
  void knock();
  std::string host_of(int rank) const;
  EpochProcesses::OnExit on_exit(uint64_t epoch);
  void launch(uint64_t epoch);
  void kill(uint64_t epoch);
  void look_after_launch(int64_t now_ms);
  void look_after_probe(int64_t now_ms);
  void report_loading();

  ControlServer::HelloAnswer on_hello(ConnectionId id, const RankHello& hello);
  void on_bytes(ConnectionId id);
  bool on_heartbeat(const Heartbeat& heartbeat);
  void on_frame(ConnectionId id, ControlFrame&& frame);
  void on_result(const Peer& peer, StepResult&& result);
  void on_closed(ConnectionId id, const std::string& why);

  void arm_timer();
  void on_timer();
  void ping(int64_t now_ms);
  void check_gone(int64_t now_ms);
  std::string with_output(const std::string& text);

  template <typename Frame>
  void send_to_all(const Frame& frame);

  boost::asio::io_context& io_;
  const LaunchSpec spec_;
  LaunchSpec launched_;  // in the formation of the present launch
  const Group::Events events_;
  Supervisor supervisor_;
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<HeartbeatSocket> heartbeats_;  // of the present epoch
  std::unique_ptr<EpochProcesses> processes_;    // of the present epoch
  std::unique_ptr<HostProbe> probe_;             // while hosts are being asked
  uint64_t n_probes_ = 0;
  // Where ranks came from when they last served, by the host of the spec.
  std::map<std::string, boost::asio::ip::tcp::endpoint> host_addresses_;
  std::unique_ptr<HostKnock> knock_;
  std::map<ConnectionId, Peer> peers_;
  std::vector<UniqueFd> kv_memory_;  // by rank, made when the rank first comes
  std::deque<SupervisorAction> pending_;
  bool performing_ = false;
  boost::asio::steady_timer timer_;
  int64_t last_heard_from_ms_ = 0;   // by all ranks: a ping, or a plan
  int64_t last_look_ms_ = 0;         // at the processes of a launch
  std::optional<GroupState> taken_;  // until start()
  bool holding_ = false;
  std::vector<std::function<void()>> on_stopped_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // of this object, for handlers
};

}  // namespace trireme
