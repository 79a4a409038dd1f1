#include "coordinator/cli/cluster_options.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "coordinator/cli/nearest.h"
#include "coordinator/cluster/launchers.h"
#include "kernels/result.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

constexpr std::array<std::pair<const char*, LauncherKind>, 4> kLaunchers = {{
    {"local", LauncherKind::kLocal},
    {"mpirun", LauncherKind::kMpirun},
    {"srun", LauncherKind::kSrun},
    {"external", LauncherKind::kExternal},
}};

LauncherKind parse_launcher(const std::string& name) {
  if (const auto kind = launcher_kind(name)) return *kind;
  throw EnvironmentError("'" + name + "' is no launcher: use local, mpirun, srun or external");
}

template <typename T>
std::vector<T> scalar_or_list(const YAML::Node& node) {
  if (node.IsScalar()) return {node.as<T>()};
  return node.as<std::vector<T>>();
}

void read_launcher(const YAML::Node& node, const std::function<bool(const char*)>& wanted,
                   ClusterOptions& options) {
  if (node.IsScalar()) {
    if (wanted("--launcher")) options.launcher = parse_launcher(node.as<std::string>());
    return;
  }
  for (const auto& entry : node) {
    const auto key = entry.first.as<std::string>();
    if (key == "kind") {
      if (wanted("--launcher")) options.launcher = parse_launcher(entry.second.as<std::string>());
    } else if (key == "hosts") {
      if (wanted("--hosts")) options.hosts = scalar_or_list<std::string>(entry.second);
    } else if (key == "mpirun_args" || key == "srun_args") {
      options.launcher_args = scalar_or_list<std::string>(entry.second);
    } else {
      throw EnvironmentError("launcher." + key +
                             " is no key: use kind, hosts, mpirun_args or srun_args");
    }
  }
}

struct Deadline {
  const char* key;
  int32_t GroupDeadlines::*value;
  int32_t least;
};

constexpr int32_t kLongestDeadlineMs = 86400 * 1000;
constexpr std::array kDeadlines = {
    Deadline{"launch_ms", &GroupDeadlines::launch_ms, 100},
    Deadline{"load_ms", &GroupDeadlines::load_ms, 100},
    Deadline{"heartbeat_ms", &GroupDeadlines::heartbeat_ms, 150},
    Deadline{"stall_ms", &GroupDeadlines::stall_ms, 100},
    Deadline{"step_ms", &GroupDeadlines::step_ms, 100},
    Deadline{"stop_ms", &GroupDeadlines::stop_ms, 100},
    Deadline{"push_ms", &GroupDeadlines::push_ms, 100},
    Deadline{"sleep_ms", &GroupDeadlines::sleep_ms, 100},
    Deadline{"silence_ms", &GroupDeadlines::silence_ms, 500},
    Deadline{"comm_ms", &GroupDeadlines::comm_ms, 100},
    Deadline{"backoff_initial_ms", &GroupDeadlines::backoff_initial_ms, 1},
    Deadline{"backoff_max_ms", &GroupDeadlines::backoff_max_ms, 1},
    Deadline{"crash_window_ms", &GroupDeadlines::crash_window_ms, 100},
    Deadline{"max_crashes", &GroupDeadlines::max_crashes, 1},
    Deadline{"join_ms", &GroupDeadlines::join_ms, 100},
    Deadline{"reach_ms", &GroupDeadlines::reach_ms, 50},
    Deadline{"probe_ms", &GroupDeadlines::probe_ms, 100},
    Deadline{"return_ms", &GroupDeadlines::return_ms, 100},
};

void read_deadlines(const YAML::Node& node, GroupDeadlines& deadlines) {
  for (const auto& entry : node) {
    const auto key = entry.first.as<std::string>();
    const auto known = std::find_if(kDeadlines.begin(), kDeadlines.end(),
                                    [&](const Deadline& d) { return key == d.key; });
    if (known == kDeadlines.end())
      throw EnvironmentError("deadlines." + key + " is no key: docs/deadlines.md lists them");
    const auto value = entry.second.as<int32_t>();
    if (value < known->least || value > kLongestDeadlineMs) {
      throw EnvironmentError("deadlines." + key + " is " + std::to_string(value) +
                             ": it must be between " + std::to_string(known->least) + " and " +
                             std::to_string(kLongestDeadlineMs));
    }
    deadlines.*(known->value) = value;
  }
}

// One key of the file: its option's name, and what it sets.
struct FileKey {
  const char* key;
  const char* option;
  void (*set)(const YAML::Node&, ClusterOptions&);
};

constexpr std::array kFileKeys = {
    FileKey{"model", "MODEL",
            [](const YAML::Node& n, ClusterOptions& o) { o.model = n.as<std::string>(); }},
    FileKey{"served_model_name", "--served-model-name",
            [](const YAML::Node& n, ClusterOptions& o) { o.served_name = n.as<std::string>(); }},
    FileKey{"tp", "--tp",
            [](const YAML::Node& n, ClusterOptions& o) { o.layout.tp = n.as<int>(); }},
    FileKey{"pp", "--pp",
            [](const YAML::Node& n, ClusterOptions& o) { o.layout.pp = n.as<int>(); }},
    FileKey{"min_ranks", "--min-ranks",
            [](const YAML::Node& n, ClusterOptions& o) { o.min_ranks = n.as<int>(); }},
    FileKey{"replicas", "--replicas",
            [](const YAML::Node& n, ClusterOptions& o) { o.n_replicas = n.as<int>(); }},
    FileKey{"threads", "--threads",
            [](const YAML::Node& n, ClusterOptions& o) { o.n_threads = n.as<int>(); }},
    FileKey{"dtype", "--dtype",
            [](const YAML::Node& n, ClusterOptions& o) {
              o.format = parse_weight_format("dtype", n.as<std::string>());
              o.format_given = true;
            }},
    FileKey{"kv_dtype", "--kv-dtype",
            [](const YAML::Node& n, ClusterOptions& o) {
              o.kv_dtype = parse_kv_dtype("kv_dtype", n.as<std::string>());
            }},
    FileKey{"context_length", "--context-length",
            [](const YAML::Node& n, ClusterOptions& o) { o.context_length = n.as<int>(); }},
    FileKey{"max_sequences", "--max-sequences",
            [](const YAML::Node& n, ClusterOptions& o) { o.max_sequences = n.as<int>(); }},
    FileKey{"max_batch_tokens", "--max-batch-tokens",
            [](const YAML::Node& n, ClusterOptions& o) { o.max_batch_tokens = n.as<int>(); }},
    FileKey{"kv_gib", "--kv-gib",
            [](const YAML::Node& n, ClusterOptions& o) { o.kv_gib = n.as<double>(); }},
    FileKey{"host", "--host",
            [](const YAML::Node& n, ClusterOptions& o) { o.host = n.as<std::string>(); }},
    FileKey{"port", "--port",
            [](const YAML::Node& n, ClusterOptions& o) { o.port = n.as<uint16_t>(); }},
    FileKey{
        "control_address", "--control-address",
        [](const YAML::Node& n, ClusterOptions& o) { o.control_address = n.as<std::string>(); }},
    FileKey{"control_port", "--control-port",
            [](const YAML::Node& n, ClusterOptions& o) { o.control_port = n.as<uint16_t>(); }},
    FileKey{"journal", "--journal",
            [](const YAML::Node& n, ClusterOptions& o) { o.journal.file = n.as<std::string>(); }},
    FileKey{"journal_retention", "--journal-retention",
            [](const YAML::Node& n, ClusterOptions& o) { o.journal.retention_s = n.as<int>(); }},
    FileKey{"journal_grace", "--journal-grace",
            [](const YAML::Node& n, ClusterOptions& o) { o.journal.grace_s = n.as<int>(); }},
    FileKey{"journal_mib", "--journal-mib",
            [](const YAML::Node& n, ClusterOptions& o) { o.journal.mib = n.as<int>(); }},
    FileKey{"batches", "--batches",
            [](const YAML::Node& n, ClusterOptions& o) { o.batches.folder = n.as<std::string>(); }},
    FileKey{"batches_gib", "--batches-gib",
            [](const YAML::Node& n, ClusterOptions& o) { o.batches.gib = n.as<int>(); }},
    FileKey{"control_tls", "--control-tls",
            [](const YAML::Node& n,
               ClusterOptions&
                   o) { o.control_tls = parse_control_tls("control_tls", n.as<std::string>()); }},
    FileKey{"api_keys", "--api-keys",
            [](const YAML::Node& n, ClusterOptions& o) { o.api_keys = n.as<std::string>(); }},
    FileKey{"protect_metrics", "--protect-metrics",
            [](const YAML::Node& n, ClusterOptions& o) { o.protect_metrics = n.as<bool>(); }},
    FileKey{"tls_cert", "--tls-cert",
            [](const YAML::Node& n, ClusterOptions& o) { o.tls_cert = n.as<std::string>(); }},
    FileKey{"tls_key", "--tls-key",
            [](const YAML::Node& n, ClusterOptions& o) { o.tls_key = n.as<std::string>(); }},
    FileKey{"enable_sleep_mode", "--enable-sleep-mode",
            [](const YAML::Node& n, ClusterOptions& o) { o.sleep_mode = n.as<bool>(); }},
    FileKey{"log_requests", "--log-requests",
            [](const YAML::Node& n, ClusterOptions& o) { o.log_requests = n.as<bool>(); }},
    FileKey{"request_timeout_ms", "--request-timeout-ms",
            [](const YAML::Node& n, ClusterOptions& o) { o.request_timeout_ms = n.as<int>(); }},
    FileKey{"write_timeout_ms", "--write-timeout-ms",
            [](const YAML::Node& n, ClusterOptions& o) { o.write_timeout_ms = n.as<int>(); }},
    FileKey{"max_waiting", "--max-waiting",
            [](const YAML::Node& n, ClusterOptions& o) { o.max_waiting = n.as<int>(); }},
    FileKey{"itl_target_ms", "--itl-target-ms",
            [](const YAML::Node& n, ClusterOptions& o) { o.itl_target_ms = n.as<int>(); }},
    FileKey{"prefix_cache", "--no-prefix-cache",
            [](const YAML::Node& n, ClusterOptions& o) { o.prefix_cache = n.as<bool>(); }},
    FileKey{"speculative_tokens", "--speculative-tokens",
            [](const YAML::Node& n, ClusterOptions& o) { o.max_guesses = n.as<int>(); }},
    FileKey{
        "tool_call_parser", "--tool-call-parser",
        [](const YAML::Node& n, ClusterOptions& o) { o.tool_call_parser = n.as<std::string>(); }},
    FileKey{
        "reasoning_parser", "--reasoning-parser",
        [](const YAML::Node& n, ClusterOptions& o) { o.reasoning_parser = n.as<std::string>(); }},
};

[[noreturn]] void unknown_key(const std::string& key) {
  std::vector<std::string> known = {"launcher", "deadlines"};
  for (const FileKey& k : kFileKeys) known.emplace_back(k.key);
  const std::string near = nearest(key, known);
  throw EnvironmentError(
      "'" + key + "' is no key" +
      (near.empty() ? ": see trireme serve --help" : "; did you mean '" + near + "'?"));
}

void read_nodes(const YAML::Node& root, const std::function<bool(const char*)>& wanted,
                ClusterOptions& options) {
  if (!root.IsMap()) throw EnvironmentError("it must be a map of keys to values");
  for (const auto& entry : root) {
    const auto key = entry.first.as<std::string>();
    if (key == "launcher") {
      read_launcher(entry.second, wanted, options);
      continue;
    }
    if (key == "deadlines") {
      read_deadlines(entry.second, options.deadlines);
      continue;
    }
    const auto known = std::find_if(kFileKeys.begin(), kFileKeys.end(),
                                    [&](const FileKey& k) { return key == k.key; });
    if (known == kFileKeys.end()) unknown_key(key);
    if (wanted(known->option)) known->set(entry.second, options);
  }
}

}  // namespace

std::optional<LauncherKind> launcher_kind(const std::string& name) {
  for (const auto& [known, kind] : kLaunchers) {
    if (name == known) return kind;
  }
  return std::nullopt;
}

const char* launcher_name(LauncherKind kind) {
  for (const auto& [name, known] : kLaunchers) {
    if (kind == known) return name;
  }
  return "unknown";
}

ControlTls parse_control_tls(const std::string& option, const std::string& name) {
  if (name == "auto") return ControlTls::kAuto;
  if (name == "on") return ControlTls::kOn;
  if (name == "off") return ControlTls::kOff;
  throw EnvironmentError(option + " " + name + " is unknown: use auto, on or off");
}

bool uses_control_tls(const ClusterOptions& options) {
  if (options.joined && options.control_tls != ControlTls::kAuto) {
    throw EnvironmentError(
        "--control-tls: under your own mpirun the ranks use TLS when they are on several hosts; "
        "leave it out");
  }
  if (options.control_tls != ControlTls::kAuto) return options.control_tls == ControlTls::kOn;
  return options.launcher != LauncherKind::kLocal && !is_loopback(options.control_address);
}

DType parse_kv_dtype(const std::string& option, const std::string& name) {
  if (name == "bfloat16") return DType::kBF16;
  if (name == "int8") return DType::kI8;
  throw EnvironmentError(option + " " + name + " is unknown: use bfloat16 or int8");
}

void read_cluster_file(const std::filesystem::path& path,
                       const std::vector<std::string>& set_options, ClusterOptions& options) {
  const auto wanted = [&](const char* option) {
    return std::find(set_options.begin(), set_options.end(), option) == set_options.end();
  };
  try {
    read_nodes(YAML::LoadFile(path.string()), wanted, options);
  } catch (const YAML::Exception& error) {
    throw EnvironmentError(
        fmt::format("cannot read {}: {} (line {})", path.string(), error.msg, error.mark.line + 1));
  } catch (const EnvironmentError& error) {
    throw EnvironmentError(fmt::format("{}: {}", path.string(), error.what()));
  }
}

}  // namespace trireme
