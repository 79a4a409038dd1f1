#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/cluster/epoch_processes.h"
#include "coordinator/cluster/launch_spec.h"

namespace trireme {

// Asks each of a spec's hosts, all at once, to run this version of the program through the
// launcher: those that say its version could run ranks. Used by the io_context's one thread.
class HostProbe {
 public:
  // `number` tells it from the other probes of this coordinator. Once one host has answered, the
  // others get patience_ms from the beginning, or twice the time that answers took; probe_ms at
  // most.
  HostProbe(boost::asio::io_context& io, const LaunchSpec& spec, uint64_t number, int64_t now_ms,
            int64_t patience_ms);

  // To be called again and again. True: it is over, and nothing of it is left but what cannot be
  // killed. That is so soon after probe_ms, or when all have answered.
  bool poll(int64_t now_ms);
  // The hosts that answered, as and in the order the spec writes them.
  std::vector<std::string> answered() const;

 private:
  struct Asked {
    LaunchSpec spec;
    std::unique_ptr<EpochProcesses> processes;  // null: they have ended
    bool answered = false;
  };

  bool is_enough(int64_t now_ms) const;

  std::vector<std::unique_ptr<Asked>> asked_;
  const int64_t begin_ms_;
  const int64_t probe_ms_;
  const int64_t patience_ms_;
  int64_t slowest_answer_ms_ = 0;
  std::optional<int64_t> killed_ms_;  // when what was left of it was killed
};

}  // namespace trireme
