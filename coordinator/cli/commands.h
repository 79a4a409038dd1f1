#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/layout.h"
#include "coordinator/cli/cluster_options.h"

namespace trireme {

// The commands behind the command line. Each returns the exit status and throws EnvironmentError,
// one line with cause and mend, for what ends it.

// `arguments`: the command line that the options come from, as another program is given it to go
// on with the server (trireme upgrade).
int serve_command(const ClusterOptions& options, const std::vector<std::string>& arguments);

struct UpgradeOptions {
  int64_t pid = 0;      // of the server; 0: the only one
  int32_t wait_s = 30;  // for answers to HTTPS clients to end
};
// Has a server of this user on this host go on as this program (docs/upgrade.md).
int upgrade_command(const UpgradeOptions& options);

struct RunOptions {
  ClusterOptions cluster;
  bool serve_api = false;   // on cluster.port, as long as the command runs
  std::string prompt;       // with has_prompt
  bool has_prompt = false;  // no: chat on a terminal, else the prompt is standard input
  std::string system;       // the chat's system message
  int32_t max_tokens = 256;
  double temperature = 0.8;
  double top_p = 0.95;
  int32_t top_k = 0;
  int64_t seed = -1;  // -1: a new one
};
int run_command(const RunOptions& options);

struct BatchOptions {
  ClusterOptions cluster;
  std::string input;   // JSON lines, each a request
  std::string output;  // JSON lines, each an answer
};
// Answers the lines of a file, and goes on where one that was killed had come (docs/batches.md).
int batch_command(const BatchOptions& options);

struct LogitsOptions {
  ClusterOptions cluster;
  int32_t max_new = 16;  // greedy tokens a line
};
int logits_command(const LogitsOptions& options);

struct BenchOptions {
  ClusterOptions cluster;
  std::vector<int32_t> n_prompt_tokens = {512};  // a row for each, with
  std::vector<int32_t> n_streams = {1};          // each of these
  int32_t n_generated = 128;                     // tokens that are timed, of each stream
  int32_t context = 0;  // tokens in the cache when decoding begins; 0: the prompt
  int32_t n_repeats = 3;
  bool json = false;
};
// Measures the ranks as serving drives them, with random prompts.
int bench_command(const BenchOptions& options);

struct InspectCommandOptions {
  std::string model;
  Layout layout;
  WeightFormat format = WeightFormat::kBF16;
  std::optional<DType> kv_dtype;  // none: the type that goes with the format
  int32_t context_length = 0;
  int32_t n_sequences = 1;
  int32_t graph_tokens = 0;  // operators of a step of so many tokens; 0: the shard plan
  bool json = false;
};
int inspect_command(const InspectCommandOptions& options);

struct PackOptions {
  std::string model;
  std::string out;  // a folder, or a file *.trireme
  WeightFormat format = WeightFormat::kBF16;
};
int pack_command(const PackOptions& options);

struct VerifyOptions {
  std::string model;  // a packed folder or file, or a folder whose packed file is in the cache
  WeightFormat format = WeightFormat::kBF16;  // of that one
};
int verify_command(const VerifyOptions& options);

struct PushOptions {
  std::string model;
  int64_t pid = 0;  // of the server; 0: the only one there is
};
// Has a server of this user on this host answer new requests with other weights.
int push_command(const PushOptions& options);

struct ReplicasOptions {
  std::string action;              // list, add or remove
  std::vector<std::string> hosts;  // add: of its own; none: those of all
  int replica = -1;                // remove
  int within_s = 60;               // remove: for what runs there
  int64_t pid = 0;                 // as of PushOptions
};
// Lists the replicas of a server of this user on this host, or has it start or end one.
int replicas_command(const ReplicasOptions& options);

// One side of a comparison.
struct DiffSide {
  Layout layout;
  WeightFormat format = WeightFormat::kBF16;
  std::string kernels;  // instruction set; empty: the best here
};
// "2x3", "1x1:float32", "1x1:bfloat16:avx2": TP x PP, weight type, instruction set. Throws
// EnvironmentError.
DiffSide parse_diff_side(const std::string& text);

struct DiffOptions {
  std::string model;
  std::string a = "1x1";
  std::string b = "2x2";
  std::string prompt_ids;  // comma-separated; empty: a prompt made from the vocabulary
  int32_t max_new = 8;
  LauncherKind launcher = LauncherKind::kLocal;
};
// 0: no bits differ; 1: they do, and where was printed.
int diff_command(const DiffOptions& options);

}  // namespace trireme
