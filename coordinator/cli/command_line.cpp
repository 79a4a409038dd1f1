#include "coordinator/cli/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>

#include "comm/control/build_id.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/nearest.h"
#include "coordinator/cli/say.h"
#include "kernels/result.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

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

struct Arguments {
  ClusterArguments serve, run, logits, bench;
  RunOptions run_options;
  LogitsOptions logits_options;
  BenchOptions bench_options;
  InspectCommandOptions inspect;
  std::string inspect_dtype = "bfloat16";
  std::string inspect_kv_dtype;
  DiffOptions diff;
  std::string diff_launcher = "local";
  PackOptions pack;
  std::string pack_format = "bfloat16";
  VerifyOptions verify;
  PushOptions push;
  std::string verify_dtype = "bfloat16";
  UpgradeOptions upgrade;
  std::vector<std::string> all;  // the command line
};

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

void add_access_options(CLI::App& serve, ClusterOptions& o) {
  serve.add_option("--api-keys", o.api_keys,
                   "file with the keys that clients must show: a line name:key or name:sha256:HEX "
                   "for each (also one key from TRIREME_API_KEY)");
  serve.add_flag("--protect-metrics", o.protect_metrics, "/metrics and /load need a key too");
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

void add_serve(CLI::App& app, Arguments& a) {
  CLI::App& serve =
      *app.add_subcommand("serve", "serve a model over an OpenAI-compatible HTTP API");
  add_cluster_options(serve, a.serve);
  serve.add_option("--host", a.serve.options.host, "address to listen on")->capture_default_str();
  serve.add_option("--port", a.serve.options.port, "port to listen on (0: any free one)")
      ->capture_default_str();
  serve.add_option("--served-model-name", a.serve.options.served_name,
                   "name of the model in the API (the folder's name)");
  serve
      .add_option("--min-ranks", a.serve.options.min_ranks,
                  "when hosts are gone, go on with a smaller layout of so many ranks or more (0: "
                  "wait for them)")
      ->capture_default_str();
  add_journal_options(serve, a.serve.options.journal);
  serve
      .add_option("--max-waiting", a.serve.options.max_waiting,
                  "requests that may wait beyond those being computed; more are refused with 429")
      ->capture_default_str();
  add_access_options(serve, a.serve.options);
  serve
      .add_option(
          "--tool-call-parser", a.serve.options.tool_call_parser,
          "how the model calls tools: hermes, llama3_json, mistral, none (auto: as its chat "
          "template shows)")
      ->capture_default_str();
  serve
      .add_option(
          "--reasoning-parser", a.serve.options.reasoning_parser,
          "think: what is between <think> and </think> is reasoning; none (auto: as its chat "
          "template shows)")
      ->capture_default_str();
}

void add_run(CLI::App& app, Arguments& a) {
  CLI::App& run = *app.add_subcommand("run", "complete a prompt, or chat on a terminal");
  add_cluster_options(run, a.run);
  RunOptions& o = a.run_options;
  run.add_option("-p,--prompt", o.prompt, "text to complete (without: chat, or standard input)");
  run.add_option("--port", a.run.options.port, "also serve the HTTP API on this port meanwhile");
  run.add_option("--system", o.system, "system message of the chat");
  run.add_option("--max-tokens", o.max_tokens, "longest answer")->capture_default_str();
  run.add_option("--temperature", o.temperature, "0: always the likeliest token")
      ->capture_default_str();
  run.add_option("--top-p", o.top_p, "draw from the likeliest tokens that hold this much")
      ->capture_default_str();
  run.add_option("--top-k", o.top_k, "draw from so many tokens (0: all)")->capture_default_str();
  run.add_option("--seed", o.seed, "the same seed gives the same text");
}

void add_logits(CLI::App& app, Arguments& a) {
  CLI::App& logits = *app.add_subcommand(
      "logits", "evaluate token ids: JSON lines {\"input_ids\":[...]} in, JSON lines out");
  add_cluster_options(logits, a.logits);
  logits.add_option("--max-new", a.logits_options.max_new, "greedy tokens after each prompt")
      ->capture_default_str();
}

void add_bench(CLI::App& app, Arguments& a) {
  CLI::App& bench = *app.add_subcommand(
      "bench", "measure prefill and decode with random prompts; needs no tokenizer");
  add_cluster_options(bench, a.bench);
  BenchOptions& o = a.bench_options;
  bench.add_option("--prompt", o.n_prompt_tokens, "prompt lengths in tokens, comma-separated")
      ->delimiter(',')
      ->capture_default_str();
  bench.add_option("--streams", o.n_streams, "requests at once, comma-separated")
      ->delimiter(',')
      ->capture_default_str();
  bench.add_option("--generate", o.n_generated, "tokens of each stream that are timed")
      ->capture_default_str();
  bench
      .add_option("--context", o.context,
                  "tokens in the cache when decoding begins (0: the prompt's)")
      ->capture_default_str();
  bench.add_option("--repeat", o.n_repeats, "runs of each row")->capture_default_str();
  bench.add_flag("--json", o.json, "as one JSON object");
}

void add_inspect(CLI::App& app, Arguments& a) {
  CLI::App& inspect = *app.add_subcommand("inspect", "print a model's shape and shard plan");
  InspectCommandOptions& o = a.inspect;
  inspect.add_option("MODEL", o.model, "Hugging Face model folder, or 'demo'")->required();
  inspect.add_option("--tp", o.layout.tp, "tensor-parallel shards")->capture_default_str();
  inspect.add_option("--pp", o.layout.pp, "pipeline stages")->capture_default_str();
  inspect.add_option("--dtype", a.inspect_dtype, kWeightFormatNames)->capture_default_str();
  inspect.add_option("--kv-dtype", a.inspect_kv_dtype,
                     "of the KV cache: bfloat16 or int8 (as --dtype)");
  inspect.add_option("--context-length", o.context_length, "tokens the KV cache holds");
  inspect.add_option("--max-sequences", o.n_sequences, "sequences of that length")
      ->capture_default_str();
  inspect
      .add_option("--graph", o.graph_tokens,
                  "print the operators of a step of so many tokens (1 if none is given), before "
                  "and after fusion, with FLOPs and bytes")
      ->expected(0, 1)
      ->default_str("1")
      ->check(CLI::Range(1, 1 << 20));
  inspect.add_flag("--json", o.json, "as one JSON object");
}

void add_diff(CLI::App& app, Arguments& a) {
  CLI::App& diff = *app.add_subcommand(
      "diff", "run a prompt on two layouts and name the first operator whose bits differ");
  DiffOptions& o = a.diff;
  diff.add_option("MODEL", o.model, "Hugging Face model folder, or 'demo'")->required();
  diff.add_option("--a", o.a, "TPxPP[:dtype[:instruction set]]")->capture_default_str();
  diff.add_option("--b", o.b, "the same, to compare with it")->capture_default_str();
  diff.add_option("--prompt-ids", o.prompt_ids, "token ids, comma-separated");
  diff.add_option("--max-new", o.max_new, "tokens to generate")->capture_default_str();
  diff.add_option("--launcher", a.diff_launcher, "local, mpirun, srun or external")
      ->capture_default_str();
}

void add_pack(CLI::App& app, Arguments& a) {
  CLI::App& pack = *app.add_subcommand(
      "pack", "write a model's weights as the kernels read them, once and for all");
  pack.add_option("MODEL", a.pack.model, "Hugging Face model folder, or 'demo'")->required();
  pack.add_option("OUT", a.pack.out, "folder to make, a MODEL of its own; or one file, *.trireme")
      ->required();
  pack.add_option("--format", a.pack_format, kWeightFormatNames)->capture_default_str();
}

void add_verify(CLI::App& app, Arguments& a) {
  CLI::App& verify =
      *app.add_subcommand("verify", "compare every checksum of a model's packed weights");
  verify.add_option("MODEL", a.verify.model, "packed folder or file, or a model in the cache")
      ->required();
  verify.add_option("--dtype", a.verify_dtype, "of the file in the cache")->capture_default_str();
}

void add_push(CLI::App& app, Arguments& a) {
  CLI::App& push = *app.add_subcommand(
      "push", "change the weights of a running server: new requests get them, open streams do not");
  push.add_option("MODEL", a.push.model, "a model of the same kind: folder, packed folder or file")
      ->required();
  push.add_option("--pid", a.push.pid, "process id of the server, where several run");
}

void add_upgrade(CLI::App& app, Arguments& a) {
  CLI::App& upgrade = *app.add_subcommand(
      "upgrade", "have a running server go on as this program, with its ranks and streams");
  upgrade.add_option("--pid", a.upgrade.pid, "process id of the server, where several run");
  upgrade.add_option("--wait", a.upgrade.wait_s, "seconds for answers to HTTPS clients to end")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
}

int dispatch(CLI::App& app, Arguments& a) {
  if (app.got_subcommand("serve")) return serve_command(resolve(a.serve), a.all);
  if (app.got_subcommand("upgrade")) return upgrade_command(a.upgrade);
  if (app.got_subcommand("run")) {
    a.run_options.cluster = resolve(a.run);
    a.run_options.serve_api = app.get_subcommand("run")->count("--port") > 0;
    a.run_options.has_prompt = app.get_subcommand("run")->count("--prompt") > 0;
    return run_command(a.run_options);
  }
  if (app.got_subcommand("logits")) {
    a.logits_options.cluster = resolve(a.logits);
    return logits_command(a.logits_options);
  }
  if (app.got_subcommand("bench")) {
    a.bench_options.cluster = resolve(a.bench);
    return bench_command(a.bench_options);
  }
  if (app.got_subcommand("inspect")) {
    a.inspect.format = parse_weight_format("--dtype", a.inspect_dtype);
    if (!a.inspect_kv_dtype.empty()) {
      a.inspect.kv_dtype = parse_kv_dtype("--kv-dtype", a.inspect_kv_dtype);
    }
    if (app.get_subcommand("inspect")->count("--graph") > 0 && a.inspect.graph_tokens < 1) {
      throw EnvironmentError("--graph is empty: give a number of tokens, or nothing for 1");
    }
    return inspect_command(a.inspect);
  }
  if (app.got_subcommand("pack")) {
    a.pack.format = parse_weight_format("--format", a.pack_format);
    return pack_command(a.pack);
  }
  if (app.got_subcommand("push")) return push_command(a.push);
  if (app.got_subcommand("verify")) {
    a.verify.format = parse_weight_format("--dtype", a.verify_dtype);
    return verify_command(a.verify);
  }
  const auto launcher = launcher_kind(a.diff_launcher);
  if (!launcher) throw EnvironmentError("--launcher must be local, mpirun, srun or external");
  a.diff.launcher = *launcher;
  return diff_command(a.diff);
}

// One line for a command line that does not parse, with the nearest option or command.
std::string explain(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const CLI::App* scope = &app;
  std::vector<std::string> known;
  for (const CLI::App* sub : app.get_subcommands({})) {
    if (argc > 1 && sub->get_name() == argv[1]) scope = sub;
  }
  for (const CLI::Option* option : scope->get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  if (scope == &app) {
    for (const CLI::App* sub : app.get_subcommands({})) known.push_back(sub->get_name());
  }
  for (int i = 1; i < argc; ++i) {
    const std::string word = std::string(argv[i]).substr(0, std::string(argv[i]).find('='));
    const bool option = word.rfind("--", 0) == 0;
    if (std::find(known.begin(), known.end(), word) != known.end()) continue;
    if (!option && scope != &app) continue;
    const std::string near = nearest(word, known);
    return fmt::format(
        "unknown {} '{}'{}", option ? "option" : "command", word,
        near.empty() ? "; see trireme --help" : fmt::format("; did you mean '{}'?", near));
  }
  return error.what();
}

}  // namespace

ClusterOptions read_serve_options(const std::vector<std::string>& arguments) {
  CLI::App app;
  Arguments parsed;
  add_serve(app, parsed);
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  try {
    app.parse(static_cast<int>(argv.size()), argv.data());
  } catch (const CLI::ParseError& error) {
    throw EnvironmentError(error.what());
  }
  return resolve(parsed.serve);
}

int command_line_main(int argc, char** argv) {
  CLI::App app{"Trireme runs one large language model over many processes and machines."};
  app.name("trireme");
  app.set_version_flag("--version", std::string(build_id()));
  app.require_subcommand(1);
  Arguments arguments;
  add_serve(app, arguments);
  add_run(app, arguments);
  add_logits(app, arguments);
  add_bench(app, arguments);
  add_inspect(app, arguments);
  add_diff(app, arguments);
  add_pack(app, arguments);
  add_verify(app, arguments);
  add_push(app, arguments);
  add_upgrade(app, arguments);
  arguments.all.assign(argv, argv + argc);
  try {
    app.parse(argc, argv);
    return dispatch(app, arguments);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    say(stderr, "trireme: {}\n",
        argc < 2 ? "no command given; see trireme --help" : explain(app, error, argc, argv));
    return 2;
  } catch (const std::exception& error) {
    say(stderr, "trireme: {}\n", error.what());
    return 1;
  }
}

}  // namespace trireme
