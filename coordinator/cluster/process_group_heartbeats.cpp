// Signs of life between a group of processes and its coordinator, besides those on connections.
#include <fmt/format.h>

#include <cstdio>
#include <utility>

#include "coordinator/cluster/process_group.h"

namespace trireme {

// The ranks that know the salt send datagrams.
void ProcessGroup::open_heartbeats(const std::string& salt) {
  heartbeats_.reset();
  auto opened =
      HeartbeatSocket::open(io_, server_->endpoint(), heartbeat_key(salt, spec_.secret),
                            [this](const Heartbeat& heartbeat) { return on_heartbeat(heartbeat); });
  launched_.job.heartbeat_salt = opened ? salt : "";
  if (opened) {
    heartbeats_ = *std::move(opened);
    return;
  }
  std::fputs(fmt::format("trireme: {}; a gap in the network is taken for lost ranks sooner without "
                         "them: choose another control port\n",
                         opened.error().message)
                 .c_str(),
             stderr);
}

bool ProcessGroup::on_heartbeat(const Heartbeat& heartbeat) {
  if (holding_) return false;
  for (auto& [id, peer] : peers_) {
    if (peer.rank != heartbeat.world_rank || peer.epoch != supervisor_.epoch()) continue;
    if (heartbeat.number <= peer.last_heartbeat) return false;
    peer.last_heartbeat = heartbeat.number;
    perform(supervisor_.on_datagram(now_ms(), peer.epoch, peer.rank, heartbeat.state,
                                    heartbeat.unheard_ms));
    return true;
  }
  return false;
}

}  // namespace trireme
