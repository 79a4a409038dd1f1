#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/cluster/epoch_processes.h"
#include "coordinator/cluster/launch_spec.h"

namespace trireme {

// Asks each of a spec's hosts, all at once, to run this version of the program through the
// launcher: those that say its version could run ranks. Used by the io_context's one thread.
class HostProbe {
 public:
  // `number` tells it from the other probes of this coordinator.
  HostProbe(boost::asio::io_context& io, const LaunchSpec& spec, uint64_t number, int64_t now_ms);

  // To be called again and again. True: it is over, and nothing of it is left but what cannot be
  // killed. That is so soon after probe_ms.
  bool poll(int64_t now_ms);
  // The hosts that answered, as and in the order the spec writes them.
  std::vector<std::string> answered() const;

 private:
  struct Asked {
    LaunchSpec spec;
    std::unique_ptr<EpochProcesses> processes;  // null: it is over
    bool answered = false;
  };

  std::vector<std::unique_ptr<Asked>> asked_;
  int64_t deadline_ms_ = 0;
  bool killed_ = false;
};

}  // namespace trireme
