#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "comm/layout.h"
#include "coordinator/cluster/launch_spec.h"
#include "kernels/weight.h"

namespace trireme {

// What survives a coordinator, and how long.
struct JournalSettings {
  std::string file;  // empty: no journal
  int32_t retention_s = 600;
  int32_t grace_s = 30;
  int32_t mib = 256;
  bool operator==(const JournalSettings&) const = default;
};

// Files and batches of clients.
struct BatchSettings {
  std::string folder;  // empty: none
  int32_t gib = 10;    // of all files
  bool operator==(const BatchSettings&) const = default;
};

// Whether the connections between coordinator and ranks are under TLS.
enum class ControlTls : uint8_t {
  kAuto,  // where other hosts can reach the control address
  kOn,
  kOff,
};

// How to run one model, as the command line and the file given with --config say. What is left
// empty is decided when the model is known.
struct ClusterOptions {
  std::string model;
  std::string served_name;  // --served-model-name; empty: the folder's name
  Layout layout;
  int32_t min_ranks = 0;  // of a replica, when hosts are gone; 0: it waits for its own layout
  int32_t n_replicas = 1;
  int32_t n_threads = 0;  // of each rank; 0: this machine's cores over its ranks
  WeightFormat format = WeightFormat::kBF16;
  bool format_given = false;      // by the user; else a packed model's own stands
  std::optional<DType> kv_dtype;  // none: the type that goes with `format`
  bool fuse = true;               // operators; the same bits either way
  int32_t context_length = 0;     // 0: the model's, at most kDefaultContext
  int32_t max_sequences = 16;     // running at once in a replica
  int32_t max_batch_tokens = 512;
  double kv_gib = 0.0;  // KV cache of each rank; 0: what the sequences need, if it fits
  LauncherKind launcher = LauncherKind::kLocal;
  bool joined = false;  // the ranks are a job that nobody can start again
  std::vector<std::string> hosts;
  std::vector<std::string> launcher_args;
  GroupDeadlines deadlines;
  std::string control_address;  // empty: loopback, or this host's address when there are hosts
  uint16_t control_port = 0;
  ControlTls control_tls = ControlTls::kAuto;
  std::string host = "127.0.0.1";  // the API's
  uint16_t port = 8080;
  JournalSettings journal;
  BatchSettings batches;
  std::filesystem::path api_keys;  // a file; empty: no keys but TRIREME_API_KEY's, if that is set
  bool protect_metrics = false;    // /metrics and /load need a key too
  std::filesystem::path tls_cert;  // both or neither
  std::filesystem::path tls_key;
  bool sleep_mode = false;                // clients may put the server to sleep
  bool log_requests = false;              // with their contents
  int32_t request_timeout_ms = 30000;     // for a client to send a whole request
  int32_t write_timeout_ms = 30000;       // for a client to take a byte of its answer
  int32_t max_waiting = 256;              // requests beyond those being computed; more are refused
  bool prefix_cache = true;               // KV of prompts that begin alike is computed once
  int32_t max_guesses = 0;                // tokens of a sequence guessed for one step
  std::string tool_call_parser = "auto";  // hermes, llama3_json, mistral, none
  std::string reasoning_parser = "auto";  // think, none
  int32_t itl_target_ms = 0;              // from token to token beside long prompts; 0: none
  bool operator==(const ClusterOptions&) const = default;
};

// Keys of the YAML file, each with the meaning of the option of that name. Values given on the
// command line win: `set_options` holds the long names ("--tp") of those that were given.
//   model, served_model_name, tp, pp, replicas, threads, dtype, kv_dtype, context_length,
//   max_sequences, max_batch_tokens, kv_gib, host, port, control_address, control_port, min_ranks,
//   journal, journal_retention, journal_grace, journal_mib, batches, batches_gib,
//   control_tls, api_keys, protect_metrics, tls_cert, tls_key, log_requests, max_waiting,
//   enable_sleep_mode, itl_target_ms, request_timeout_ms, write_timeout_ms, prefix_cache,
//   speculative_tokens, tool_call_parser, reasoning_parser, launcher: {kind, hosts, mpirun_args,
//   srun_args}, or launcher: kind deadlines: {launch_ms, ...}, as GroupDeadlines names them
// Throws EnvironmentError naming file, key and what is allowed.
void read_cluster_file(const std::filesystem::path& path,
                       const std::vector<std::string>& set_options, ClusterOptions& options);

// "local", "mpirun", "srun", "external"; none when it is no launcher.
std::optional<LauncherKind> launcher_kind(const std::string& name);
const char* launcher_name(LauncherKind kind);

// "auto", "on" or "off". Throws EnvironmentError naming `option` otherwise.
ControlTls parse_control_tls(const std::string& option, const std::string& name);

// Whether its ranks dial under TLS: as it says, else where the control address, by then decided, is
// not loopback. The ranks of a user's own mpirun follow the same rule by themselves. Throws
// EnvironmentError where it says otherwise for those.
bool uses_control_tls(const ClusterOptions& options);

// "bfloat16" or "int8". Throws EnvironmentError naming `option` otherwise.
DType parse_kv_dtype(const std::string& option, const std::string& name);

}  // namespace trireme
