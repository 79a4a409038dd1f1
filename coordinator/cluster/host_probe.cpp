#include "coordinator/cluster/host_probe.h"

#include "comm/control/build_id.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr int kReplicaShift = 32;  // above the epochs of launches, and apart from other replicas'
constexpr int64_t kEndOfKilledMs = 1000;

}  // namespace

HostProbe::HostProbe(boost::asio::io_context& io, const LaunchSpec& spec, uint64_t number,
                     int64_t now_ms)
    : deadline_ms_(now_ms + spec.deadlines.probe_ms) {
  uint64_t epoch = static_cast<uint64_t>(1 + spec.job.replica) << kReplicaShift;
  epoch += number * spec.hosts.size();
  for (const std::string& host : spec.hosts) {
    auto asked = std::make_unique<Asked>();
    asked->spec = spec;
    asked->spec.hosts = {host};
    asked->spec.job.layout = {.tp = 1, .pp = 1};
    try {
      asked->processes =
          std::make_unique<EpochProcesses>(io, asked->spec, epoch++, [](const std::string&) {});
      if (asked->processes->launch(0, /*is_probe=*/true)) asked_.push_back(std::move(asked));
    } catch (const EnvironmentError&) {
      // It counts as a host that does not answer: its ranks could not be started either.
    }
  }
}

bool HostProbe::poll(int64_t now_ms) {
  bool over = true;
  const bool late = now_ms >= deadline_ms_;
  for (const std::unique_ptr<Asked>& asked : asked_) {
    if (!asked->processes) continue;
    if (late && !killed_) asked->processes->kill();
    if (!asked->processes->poll_gone() && now_ms < deadline_ms_ + kEndOfKilledMs) {
      over = false;
      continue;
    }
    asked->answered = asked->processes->output().find(build_id()) != std::string::npos;
    asked->processes.reset();
  }
  killed_ = killed_ || late;
  return over;
}

std::vector<std::string> HostProbe::answered() const {
  std::vector<std::string> hosts;
  for (const std::unique_ptr<Asked>& asked : asked_) {
    if (asked->answered) hosts.push_back(asked->spec.hosts[0]);
  }
  return hosts;
}

}  // namespace trireme
