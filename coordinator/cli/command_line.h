#pragma once

#include <string>
#include <vector>

#include "coordinator/cli/cluster_options.h"

namespace trireme {

// Every command but `worker`: run, serve, logits, inspect, diff. Returns the exit status.
int command_line_main(int argc, char** argv);

// The options that a command line of `serve` gives now, with its file. Throws EnvironmentError.
ClusterOptions read_serve_options(const std::vector<std::string>& arguments);

}  // namespace trireme
