#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "coordinator/cli/cluster_options.h"

namespace trireme {

// What CLI11 parses into before it is checked and merged with the file of --config.
struct ClusterArguments {
  ClusterOptions options;
  std::string launcher = "local";
  std::string dtype = "bfloat16";
  std::string kv_dtype;
  std::string control_tls = "auto";
  std::string config;
  CLI::App* command = nullptr;
};

// What every command that starts ranks takes.
void add_cluster_options(CLI::App& app, ClusterArguments& a);
// These, and what is the server's alone.
void add_serve_options(CLI::App& serve, ClusterArguments& a);

// After the parse: checked, and merged with the file of --config, over which what was given wins.
// Throws EnvironmentError.
ClusterOptions resolve(ClusterArguments& a);

}  // namespace trireme
