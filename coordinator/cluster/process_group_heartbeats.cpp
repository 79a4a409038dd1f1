// Signs of life between a group of processes and its coordinator, besides those on connections.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "coordinator/cluster/launchers.h"
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

// The spec's host where it runs; empty where that is not known. Not every launcher keeps the order,
// so a name that is the same counts for more.
std::string ProcessGroup::host_of(int rank) const {
  const std::string own_name = supervisor_.ranks()[static_cast<size_t>(rank)].host;
  const auto named =
      std::find_if(launched_.hosts.begin(), launched_.hosts.end(),
                   [&](const std::string& entry) { return parse_host(entry).host == own_name; });
  if (named != launched_.hosts.end()) return *named;
  if (spec_.launcher != LauncherKind::kMpirun) return "";
  return hosts_of_ranks(supervisor_.formation())[static_cast<size_t>(rank)];
}

// While the group serves its hosts show whether they answer at all. The port of ssh: where mpirun
// logs in no firewall drops what comes for it, and nobody need listen there.
void ProcessGroup::knock() {
  constexpr uint16_t kKnockPort = 22;
  const bool serving = supervisor_.status() == GroupStatus::kServing;
  for (const auto& [id, peer] : peers_) {
    const auto address = server_->peer_address(id);
    const std::string host = host_of(peer.rank);
    if (!serving || address.is_unspecified() || host.empty()) continue;
    host_addresses_[host] = {address, kKnockPort};
  }
  const int32_t limit_ms = serving ? spec_.deadlines.reach_ms : spec_.deadlines.launch_ms;
  knock_ = std::make_unique<HostKnock>(
      io_, host_addresses_, std::chrono::milliseconds(limit_ms),
      [this](const std::string& host) { supervisor_.on_host_reached(host); });
}

}  // namespace trireme
