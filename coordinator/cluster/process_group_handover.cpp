// A group of processes between two coordinators.
#include "coordinator/cluster/process_group.h"
#include "kernels/check.h"

namespace trireme {

GroupState Group::state() { return {}; }

std::string ProcessGroup::handover_problem() const {
  if (supervisor_.formation() != whole_formation(spec_))
    return "its ranks run in a smaller layout for a while: try again when all are back";
  if (probe_) return "hosts are being asked whether they are back: try again in a moment";
  switch (supervisor_.status()) {
    case GroupStatus::kBroken:  // the next coordinator tries it again
    case GroupStatus::kServing: return "";
    default: return "its ranks are being started: try again when they serve";
  }
}

void ProcessGroup::hold() {
  holding_ = true;
  knock_.reset();
  if (supervisor_.status() != GroupStatus::kServing) return;
  send_to_all(ControlPing{.quiet_ms = launched_.job.silence_ms});
  server_->hold();
}

bool ProcessGroup::is_held() const {
  return supervisor_.status() != GroupStatus::kServing || server_->is_held();
}

void ProcessGroup::go_on() {
  if (!std::exchange(holding_, false)) return;
  supervisor_.forgive_all(now_ms());
  if (!server_) return;
  server_->go_on();
  last_heard_from_ms_ = 0;
  ping(now_ms());  // it is quiet no longer
}

GroupState ProcessGroup::state() {
  GroupState state;
  state.epoch = supervisor_.epoch();
  state.serving = supervisor_.status() == GroupStatus::kServing;
  if (!state.serving) return state;
  state.job = job_shape();
  state.supervisor = supervisor_.state();
  state.listener = server_->listener();
  state.heartbeat_salt = launched_.job.heartbeat_salt;
  for (const auto& [id, peer] : peers_) {
    ControlServer::Held held = server_->held(id);
    state.connections.push_back({.fd = held.fd,
                                 .rank = peer.rank,
                                 .unread = std::move(held.unread),
                                 .last_heartbeat = peer.last_heartbeat});
  }
  if (processes_) state.processes = processes_->state();
  for (const UniqueFd& memory : kv_memory_) state.kv_memory.push_back(memory.get());
  return state;
}

// What coordinator and running ranks must agree on.
std::string ProcessGroup::job_shape() const {
  JobSpec shape;
  shape.layout = spec_.job.layout;
  shape.replica = spec_.replica;
  shape.hidden_size = spec_.job.hidden_size;
  shape.context_length = spec_.job.context_length;
  shape.max_slots = spec_.job.max_slots;
  shape.max_batch_tokens = spec_.job.max_batch_tokens;
  shape.max_plans_in_flight = spec_.job.max_plans_in_flight;
  return encode_frame(shape);
}

// Instead of a launch: the ranks of the present epoch go on with this coordinator.
void ProcessGroup::resume(const GroupState& taken) {
  SupervisorActions actions = supervisor_.resume(now_ms(), taken.epoch, taken.supervisor);
  open_server(taken.listener);
  if (!taken.heartbeat_salt.empty()) open_heartbeats(taken.heartbeat_salt);
  for (const RankConnection& connection : taken.connections) {
    const ConnectionId id = server_->take_over({.fd = connection.fd, .unread = connection.unread});
    peers_[id] = {
        .epoch = taken.epoch, .rank = connection.rank, .last_heartbeat = connection.last_heartbeat};
  }
  processes_ = std::make_unique<EpochProcesses>(io_, spec_, taken.epoch, on_exit(taken.epoch),
                                                taken.processes);
  for (const int fd : taken.kv_memory) kv_memory_.emplace_back(fd);
  ping(now_ms());
  perform(std::move(actions));
  if (!events_.on_serving) return;
  GroupCapacity capacity = supervisor_.capacity();
  capacity.kv_kept = true;  // by the ranks themselves
  events_.on_serving(capacity);
}

}  // namespace trireme
