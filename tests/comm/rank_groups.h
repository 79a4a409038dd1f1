#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/shared_region.h"

namespace trireme::test {

// What one rank does with its communicators; throws when something is wrong.
using RankMain = std::function<void(int world_rank, RankComms& comms)>;

// Runs every rank as a thread of this process. Returns one message per rank, "" when all went well.
std::vector<std::string> run_threads(const SharedRegion& region, const CommOptions& options,
                                     const RankMain& rank_main);

// Runs every rank as a forked process that attaches to the inherited descriptor. A message is what
// the rank threw, or "signal N" when that ended it.
std::vector<std::string> run_processes(const SharedRegion& region, const CommOptions& options,
                                       const RankMain& rank_main);

}  // namespace trireme::test
