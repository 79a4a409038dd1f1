#include "coordinator/cluster/host_probe.h"

#include <algorithm>

#include "comm/control/build_id.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr int kReplicaShift = 32;  // above the epochs of launches, and apart from other replicas'
constexpr int64_t kEndOfKilledMs = 1000;

}  // namespace

HostProbe::HostProbe(boost::asio::io_context& io, const LaunchSpec& spec, uint64_t number,
                     int64_t now_ms, int64_t patience_ms)
    : begin_ms_(now_ms), probe_ms_(spec.deadlines.probe_ms), patience_ms_(patience_ms) {
  uint64_t epoch = static_cast<uint64_t>(1 + spec.replica) << kReplicaShift;
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

// Whoever has not answered by now counts as missing.
bool HostProbe::is_enough(int64_t now_ms) const {
  const auto n_answered = std::count_if(asked_.begin(), asked_.end(),
                                        [](const auto& asked) { return asked->answered; });
  if (n_answered == static_cast<int64_t>(asked_.size())) return true;
  const int64_t patience_ms = std::max(patience_ms_, 2 * slowest_answer_ms_);
  return now_ms - begin_ms_ >= (n_answered > 0 ? std::min(patience_ms, probe_ms_) : probe_ms_);
}

bool HostProbe::poll(int64_t now_ms) {
  const auto take_answer = [&](Asked& asked) {
    if (asked.answered || killed_ms_) return;
    asked.answered = asked.processes->output().find(build_id()) != std::string::npos;
    if (asked.answered) slowest_answer_ms_ = now_ms - begin_ms_;
  };
  bool over = true;
  for (const std::unique_ptr<Asked>& asked : asked_) {
    if (!asked->processes) continue;
    take_answer(*asked);
    const bool gone = asked->processes->poll_gone();
    take_answer(*asked);  // its last words
    if (gone || (killed_ms_ && now_ms - *killed_ms_ >= kEndOfKilledMs)) {
      asked->processes.reset();
    } else {
      over = false;
    }
  }
  if (!over && !killed_ms_ && is_enough(now_ms)) {
    killed_ms_ = now_ms;
    for (const std::unique_ptr<Asked>& asked : asked_) {
      if (asked->processes) asked->processes->kill();
    }
  }
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
