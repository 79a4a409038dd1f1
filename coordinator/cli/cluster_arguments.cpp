#include "coordinator/cli/cluster_arguments.h"

#include <vector>

#include "kernels/result.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

void add_journal_options(CLI::App& serve, JournalSettings& o) {
  serve.add_option("--journal", o.file,
                   "file that keeps streams over a kill of this process and over lost connections; "
                   "it holds what clients send (without: none)");
  serve
      .add_option("--journal-retention", o.retention_s,
                  "seconds that an answer is kept after its end")
      ->capture_default_str();
  serve
      .add_option("--journal-grace", o.grace_s,
                  "seconds for a client that lost its connection to come back")
      ->capture_default_str();
  serve.add_option("--journal-mib", o.mib, "size at which the oldest ended answers go, in MiB")
      ->capture_default_str();
}

void add_batch_options(CLI::App& serve, BatchSettings& o) {
  serve.add_option(
      "--batches", o.folder,
      "folder for clients' files and batches (/v1/files, /v1/batches), which outlive a "
      "kill of this process (without: none)");
  serve.add_option("--batches-gib", o.gib, "bound of all files in it, in GiB")
      ->capture_default_str();
}

void add_access_options(CLI::App& serve, ClusterOptions& o) {
  serve.add_option("--api-keys", o.api_keys,
                   "file with the keys that clients must show: a line name:key or name:sha256:HEX "
                   "for each, perhaps with max_requests=N and priority=N behind it (also one key "
                   "from TRIREME_API_KEY)");
  serve.add_flag("--protect-metrics", o.protect_metrics, "/metrics and /load need a key too");
  serve.add_flag("--enable-sleep-mode", o.sleep_mode,
                 "clients may end the ranks and start them again: /sleep, /wake_up");
  serve.add_option("--tls-cert", o.tls_cert, "serve HTTPS: PEM file with the certificate chain");
  serve.add_option("--tls-key", o.tls_key, "PEM file with its private key");
  serve
      .add_option("--request-timeout-ms", o.request_timeout_ms,
                  "for a client to send a whole request")
      ->capture_default_str();
  serve
      .add_option("--write-timeout-ms", o.write_timeout_ms,
                  "for a client to take a byte of its answer")
      ->capture_default_str();
  serve.add_flag("--log-requests", o.log_requests, "log every request with its body");
}

}  // namespace

void add_cluster_options(CLI::App& app, ClusterArguments& a) {
  a.command = &app;
  ClusterOptions& o = a.options;
  app.add_option("MODEL", o.model, "Hugging Face model folder, or 'demo'");
  app.add_option("--tp", o.layout.tp, "tensor-parallel shards of each stage")
      ->capture_default_str();
  app.add_option("--pp", o.layout.pp, "pipeline stages")->capture_default_str();
  app.add_option("--replicas", o.n_replicas, "copies of the model")->capture_default_str();
  app.add_option("--threads", o.n_threads, "threads of each rank (0: cores over ranks)")
      ->capture_default_str();
  app.add_option("--dtype", a.dtype, kWeightFormatNames)->capture_default_str();
  app.add_option("--kv-dtype", a.kv_dtype, "of the KV cache: bfloat16 or int8 (as --dtype)");
  app.add_flag_callback(
      "--no-fuse", [&o] { o.fuse = false; },
      "run every operator by itself: the same output, slower");
  app.add_flag_callback(
      "--no-prefix-cache", [&o] { o.prefix_cache = false; },
      "compute every prompt as a whole: the same output, slower where prompts begin alike");
  app.add_option("--speculative-tokens", o.max_guesses,
                 "guess so many tokens of each answer from what came before, and draw them in one "
                 "step where the guesses are right: the same output, sooner where text repeats (0: "
                 "none)")
      ->capture_default_str();
  app.add_option("--context-length", o.context_length,
                 "longest prompt and output together, in tokens (0: the model's, at most 8192)")
      ->capture_default_str();
  app.add_option("--max-sequences", o.max_sequences, "sequences computed at once in a replica")
      ->capture_default_str();
  app.add_option("--max-batch-tokens", o.max_batch_tokens, "tokens in one step")
      ->capture_default_str();
  app.add_option("--kv-gib", o.kv_gib, "KV cache of each rank in GiB (0: what is needed)")
      ->capture_default_str();
  app.add_option("--launcher", a.launcher,
                 "how ranks start: local (child processes), mpirun, srun, or external (they are "
                 "started by hand and dial in)")
      ->capture_default_str();
  app.add_option("--hosts", o.hosts, "hosts for mpirun or srun, comma-separated")->delimiter(',');
  app.add_option("--control-address", o.control_address,
                 "address at which ranks reach the coordinator");
  app.add_option("--control-port", o.control_port, "its port (0: any free one)")
      ->capture_default_str();
  app.add_option("--control-tls", a.control_tls,
                 "TLS between coordinator and ranks: on, off, or auto (on where other hosts can "
                 "reach the control address)")
      ->capture_default_str();
  app.add_option("--config", a.config, "YAML file with these settings; options given here win");
}

void add_serve_options(CLI::App& serve, ClusterArguments& a) {
  add_cluster_options(serve, a);
  ClusterOptions& o = a.options;
  serve.add_option("--host", o.host, "address to listen on")->capture_default_str();
  serve.add_option("--port", o.port, "port to listen on (0: any free one)")->capture_default_str();
  serve.add_option("--served-model-name", o.served_name,
                   "name of the model in the API (the folder's name)");
  serve
      .add_option("--min-ranks", o.min_ranks,
                  "when hosts are gone, go on with a smaller layout of so many ranks or more (0: "
                  "wait for them)")
      ->capture_default_str();
  add_journal_options(serve, o.journal);
  add_batch_options(serve, o.batches);
  serve
      .add_option("--max-waiting", o.max_waiting,
                  "requests that may wait beyond those being computed; more are refused with 429")
      ->capture_default_str();
  serve
      .add_option("--itl-target-ms", o.itl_target_ms,
                  "from one token of a stream to its next while prompts are computed beside it: "
                  "they are cut into chunks as small as that needs (0: --max-batch-tokens)")
      ->capture_default_str();
  add_access_options(serve, o);
  serve
      .add_option(
          "--tool-call-parser", o.tool_call_parser,
          "how the model calls tools: hermes, llama3_json, mistral, none (auto: as its chat "
          "template shows)")
      ->capture_default_str();
  serve
      .add_option(
          "--reasoning-parser", o.reasoning_parser,
          "think: what is between <think> and </think> is reasoning; none (auto: as its chat "
          "template shows)")
      ->capture_default_str();
}

ClusterOptions resolve(ClusterArguments& a) {
  std::vector<std::string> given;
  for (const CLI::Option* option : a.command->get_options()) {
    if (option->count() > 0) given.push_back(option->get_name());
  }
  // "joined" is no choice of the user's: start_detached_coordinator() says it.
  a.options.joined = a.launcher == "joined";
  const auto launcher = launcher_kind(a.options.joined ? "external" : a.launcher);
  if (!launcher) {
    throw EnvironmentError("--launcher " + a.launcher +
                           " is unknown: use local, mpirun, srun or external");
  }
  a.options.launcher = *launcher;
  a.options.format = parse_weight_format("--dtype", a.dtype);
  a.options.format_given = a.command->count("--dtype") > 0;
  if (!a.kv_dtype.empty()) a.options.kv_dtype = parse_kv_dtype("--kv-dtype", a.kv_dtype);
  a.options.control_tls = parse_control_tls("--control-tls", a.control_tls);
  if (!a.config.empty()) read_cluster_file(a.config, given, a.options);
  if (a.options.model.empty()) {
    throw EnvironmentError("no model given: name a Hugging Face model folder, or 'demo'");
  }
  return a.options;
}

}  // namespace trireme
