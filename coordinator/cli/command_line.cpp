#include "coordinator/cli/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>

#include "comm/control/build_id.h"
#include "coordinator/cli/cluster_arguments.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/nearest.h"
#include "coordinator/cli/say.h"
#include "kernels/result.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

struct Arguments {
  ClusterArguments serve, run, logits, bench, batch;
  RunOptions run_options;
  LogitsOptions logits_options;
  BenchOptions bench_options;
  std::vector<std::string> batch_files;
  InspectCommandOptions inspect;
  std::string inspect_dtype = "bfloat16";
  std::string inspect_kv_dtype;
  DiffOptions diff;
  std::string diff_launcher = "local";
  PackOptions pack;
  std::string pack_format = "bfloat16";
  VerifyOptions verify;
  PushOptions push;
  ReplicasOptions replicas;
  std::string verify_dtype = "bfloat16";
  UpgradeOptions upgrade;
  std::vector<std::string> all;  // the command line
};

void add_serve(CLI::App& app, Arguments& a) {
  CLI::App& serve =
      *app.add_subcommand("serve", "serve a model over an OpenAI-compatible HTTP API");
  add_serve_options(serve, a.serve);
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

void add_batch(CLI::App& app, Arguments& a) {
  CLI::App& batch = *app.add_subcommand(
      "batch", "answer the requests in a file of JSON lines; goes on where a killed one had come");
  add_cluster_options(batch, a.batch);
  batch.remove_option(batch.get_option("MODEL"));
  batch
      .add_option("FILES", a.batch_files,
                  "MODEL IN OUT: the model, the requests (OpenAI's batch format) and the file for "
                  "their answers; MODEL may be left to the file of --config")
      ->expected(2, 3)
      ->required();
  batch.add_option("--served-model-name", a.batch.options.served_name,
                   "name of the model in the requests (the folder's name)");
}

BatchOptions batch_options(Arguments& a) {
  const bool names_model = a.batch_files.size() == 3;
  if (names_model) a.batch.options.model = a.batch_files.front();
  BatchOptions options{.cluster = resolve(a.batch),
                       .input = *(a.batch_files.end() - 2),
                       .output = a.batch_files.back()};
  if (names_model) options.cluster.model = a.batch_files.front();  // not the file's
  return options;
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

void add_replicas(CLI::App& app, Arguments& a) {
  CLI::App& replicas = *app.add_subcommand(
      "replicas", "list, start or end copies of the model in a running server; streams go on");
  replicas.add_option("--pid", a.replicas.pid, "process id of the server, where several run");
  replicas.require_subcommand(1);
  const auto action = [&](const char* name, const char* what) -> CLI::App& {
    CLI::App& one = *replicas.add_subcommand(name, what);
    one.callback([&a, name] { a.replicas.action = name; });
    return one;
  };
  action("list", "what each one is and does");
  CLI::App& add = action("add", "start the first one that has left, or a new one");
  add.add_option("--hosts", a.replicas.hosts, "hosts of a new one, comma-separated")
      ->delimiter(',');
  CLI::App& remove = action("remove", "end one, when what runs there has ended or gone elsewhere");
  remove.add_option("REPLICA", a.replicas.replica, "its number")->required();
  remove
      .add_option("--within", a.replicas.within_s,
                  "seconds for what runs there; then it goes on elsewhere")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
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
  if (app.got_subcommand("batch")) return batch_command(batch_options(a));
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
  if (app.got_subcommand("replicas")) return replicas_command(a.replicas);
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
  add_batch(app, arguments);
  add_logits(app, arguments);
  add_bench(app, arguments);
  add_inspect(app, arguments);
  add_diff(app, arguments);
  add_pack(app, arguments);
  add_verify(app, arguments);
  add_push(app, arguments);
  add_replicas(app, arguments);
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
