#include "coordinator/cli/session.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

#include "coordinator/cli/say.h"
#include "coordinator/cluster/formation.h"
#include "coordinator/handover/handover_state.h"
#include "coordinator/serving/ngram_drafter.h"
#include "kernels/int_math.h"
#include "kernels/result.h"
#include "model/kv_pool.h"
#include "model/model_folder.h"
#include "model/packed_model.h"
#include "model/partition.h"
#include "model/rope_frequencies.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

constexpr int32_t kDefaultContext = 8192;  // served unless asked for more: bounds the KV cache
constexpr size_t kMinSecretBytes = 16;
constexpr int32_t kEndOfKilledRanksMs = 10000;  // after their own deadline; no process waits longer
constexpr int kMaskThreads = 2;                 // busy only while there are grammars
constexpr int32_t kPlansAhead = 1;              // hides the way from the ranks to here and back

void check_range(const char* option, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw EnvironmentError(
      fmt::format("{} {} is out of range: use {} to {}", option, value, low, high));
}

// Ranks that others start must be given the same secret as the coordinator.
std::string shared_secret() {
  const char* given = std::getenv("TRIREME_SECRET");
  if (given == nullptr || *given == '\0') return random_secret();
  const std::string secret = given;
  if (secret.size() < kMinSecretBytes) {
    throw EnvironmentError(fmt::format(
        "TRIREME_SECRET has {} characters: use at least {} random ones, as of openssl rand -hex 16",
        secret.size(), kMinSecretBytes));
  }
  return secret;
}

// KV bytes of a rank: what was asked for, else enough for every sequence at full length, but no
// more than half of this machine's memory shared by its ranks.
int64_t kv_bytes(const ClusterOptions& options, const ModelConfig& config, const JobSpec& job,
                 const Layout& layout) {
  if (options.kv_gib > 0) return static_cast<int64_t>(options.kv_gib * 1073741824.0);
  int64_t wanted = 0;
  for (int rank = 0; rank < layout.n_ranks(); ++rank) {
    const auto shard = make_shard_plan(config, layout, rank);
    const auto block = static_cast<int64_t>(KvPool::block_bytes(config, *shard, job.kv_dtype));
    wanted = std::max(wanted, block * job.max_slots * div_ceil(job.context_length, kKvBlockTokens));
  }
  const int n_local = options.hosts.empty() ? layout.n_ranks() * options.n_replicas : 1;
  return std::min(wanted, static_cast<int64_t>(memory_bytes() / 2) / n_local);
}

}  // namespace

Session::Session(ClusterOptions options, ServingObserver observer, const MakeGuides& make_guides)
    : options_(std::move(options)), secret_(shared_secret()) {
  resolve_model_and_limits();
  if (make_guides) guides_ = make_guides(config_);
  const auto packed = PackedModel::open(packed_file());
  job_.weights = {
      {.generation = 1, .path = packed->path().string(), .fingerprint = packed->fingerprint()}};
  make_core(std::move(observer), *packed, nullptr);
}

Session::Session(ClusterOptions options, ServingObserver observer, const MakeGuides& make_guides,
                 HandoverState& taken)
    : options_(std::move(options)),
      run_folder_(taken.run_folder, UniqueFd(taken.run_folder_lock)),
      secret_(taken.secret) {
  resolve_model_and_limits();
  if (make_guides) guides_ = make_guides(config_);
  job_.weights = {taken.core.weights};
  const auto packed = PackedModel::open(taken.core.weights.path);
  make_core(std::move(observer), *packed, &taken);
}

Session::~Session() { stop(); }

// Reads the config: of a packed model, from its packed file.
void Session::resolve_model() {
  model_path_ = std::filesystem::absolute(trireme::resolve_model(options_.model));
  place_ = model_place(model_path_);
  if (place_.packed.empty()) {
    config_ = read_model_config(place_.folder);
    return;
  }
  const auto packed = PackedModel::open(place_.packed);
  if (options_.format_given && options_.format != packed->format()) {
    throw EnvironmentError(
        fmt::format("{}: holds {} weights, not {}; leave --dtype out, or pack the model again with "
                    "trireme pack MODEL OUT --format {}",
                    place_.packed.string(), weight_format_name(packed->format()),
                    weight_format_name(options_.format), weight_format_name(options_.format)));
  }
  options_.format = packed->format();
  config_ = packed->config();
}

// The weights that the ranks map, packed now if need be. Ranks on this host also find what had to
// go to the run's own folder.
std::filesystem::path Session::packed_file() {
  if (!place_.packed.empty()) return std::filesystem::absolute(place_.packed);
  Progress packing("packing the weights for the kernels (once)");
  const auto path = cached_packed_model(
      place_.folder, options_.format,
      {.fallback = run_folder_.path(),
       .on_progress = [&](uint64_t done, uint64_t total) { packing.update(done, total); },
       .on_note = [](const std::string& line) { say(stderr, "trireme: {}\n", line); }});
  packing.complete();
  return path;
}

void Session::resolve_model_and_limits() {
  check_range("--replicas", options_.n_replicas, 1, 64);
  check_range("--threads", options_.n_threads, 0, 1024);
  check_range("--max-sequences", options_.max_sequences, 1, 4096);
  check_range("--request-timeout-ms", options_.request_timeout_ms, 100, 86400000);
  check_range("--write-timeout-ms", options_.write_timeout_ms, 100, 86400000);
  check_range("--max-waiting", options_.max_waiting, 0, 100000);
  check_range("--itl-target-ms", options_.itl_target_ms, 0, 60000);
  check_range("--max-batch-tokens", options_.max_batch_tokens, options_.max_sequences, 65536);
  resolve_model();
  const auto shard = make_shard_plan(config_, options_.layout, 0);
  if (!shard) throw EnvironmentError(shard.error().message);

  const int32_t longest = default_context_length(config_);
  if (options_.context_length == 0) {
    options_.context_length = std::min(longest, kDefaultContext);
  }
  check_range("--speculative-tokens", options_.max_guesses, 0, kMostRowsWithGuesses - 1);
  check_range("--context-length", options_.context_length, 1, longest);
  if (options_.control_address.empty()) {
    options_.control_address = options_.hosts.empty() ? "127.0.0.1" : first_address();
  }
  job_.model_path = place_.folder.string();
  job_.layout = options_.layout;
  job_.n_threads = options_.n_threads;
  job_.n_replicas = options_.n_replicas;
  job_.context_length = options_.context_length;
  job_.max_slots = options_.max_sequences;
  job_.max_batch_tokens = options_.max_batch_tokens;
  job_.hidden_size = config_.hidden_size;
  job_.max_plans_in_flight = options_.layout.pp + kPlansAhead;
  job_.fuse = options_.fuse;
  job_.silence_ms = options_.deadlines.silence_ms;
  job_.cut_off_ms = 2 * options_.deadlines.heartbeat_ms;
  job_.comm_timeout_ms = options_.deadlines.comm_ms;
  job_.kv_dtype = options_.kv_dtype.value_or(KvPool::default_dtype(options_.format));
  job_.kv_bytes = kv_bytes(options_, config_, job_, job_.layout);
  resolve_smaller_layouts();
}

// What a replica may go on with when it cannot have its own layout.
void Session::resolve_smaller_layouts() {
  const int n_ranks = options_.layout.n_ranks();
  if (options_.min_ranks == 0) return;
  if (options_.launcher == LauncherKind::kExternal) {
    throw EnvironmentError(
        "--min-ranks: nobody here can start other ranks than those that you started; leave it out, "
        "or use --launcher local, mpirun or srun");
  }
  if (n_ranks == 1) {
    throw EnvironmentError("--min-ranks: one rank is the least there is; leave it out");
  }
  check_range("--min-ranks", options_.min_ranks, 1, n_ranks - 1);
  const auto layouts =
      smaller_layouts(options_.layout, options_.min_ranks,
                      [this](const Layout& l) { return make_shard_plan(config_, l, 0).ok(); });
  if (layouts.empty()) {
    throw EnvironmentError(
        fmt::format("--min-ranks {}: no layout of {} to {} ranks fits this model; use a smaller "
                    "number",
                    options_.min_ranks, options_.min_ranks, n_ranks - 1));
  }
  for (const Layout& layout : layouts) {
    smaller_layouts_.push_back(
        {.layout = layout, .kv_bytes = kv_bytes(options_, config_, job_, layout)});
  }
}

LaunchSpec Session::launch_spec(int replica) const {
  LaunchSpec spec;
  spec.launcher = options_.launcher;
  spec.job = job_;
  spec.smaller_layouts = smaller_layouts_;
  spec.replica = replica;
  if (const std::vector<std::string> own = own_hosts(replica); !own.empty()) {
    spec.hosts = own;
    spec.job.n_replicas = 1;
  } else {
    spec.hosts = options_.hosts;
    spec.job.replica = replica;
    spec.job.n_replicas = std::max(job_.n_replicas, replica + 1);
  }
  spec.launcher_args = options_.launcher_args;
  spec.deadlines = options_.deadlines;
  spec.control_address = options_.control_address;
  spec.control_port = options_.control_port;
  spec.executable = own_executable().string();
  spec.secret = secret_;
  spec.control_tls = uses_control_tls(options_);
  spec.run_folder = run_folder_.path().string();
  if (options_.joined) {
    spec.ranks_are_coming = true;
    spec.deadlines.max_crashes = 1;
  }
  return spec;
}

void Session::make_core(ServingObserver observer, const PackedModel& packed, HandoverState* taken) {
  const size_t n_replicas =
      taken == nullptr ? static_cast<size_t>(options_.n_replicas) : taken->core.replicas.size();
  seen_.resize(n_replicas, {.layout = options_.layout});
  for (size_t i = 0; taken != nullptr && i < n_replicas; ++i) {
    seen_[i].hosts = taken->replica_hosts.at(i);
    seen_[i].in = !taken->core.replicas[i].out;
  }
  InferenceCoreOptions core;
  core.scheduler.max_slots = job_.max_slots;
  core.scheduler.max_batch_tokens = job_.max_batch_tokens;
  core.scheduler.max_prefill_tokens = job_.max_batch_tokens;
  core.scheduler.n_stages = job_.layout.pp;
  core.scheduler.n_plans_ahead = kPlansAhead;
  core.scheduler.n_ranks = job_.layout.n_ranks();
  core.scheduler.context_length = job_.context_length;
  core.scheduler.vocab_size = config_.vocab_size;
  core.scheduler.eos_token_ids = config_.eos_token_ids;
  core.scheduler.prefix_cache = options_.prefix_cache;
  core.scheduler.max_guesses = options_.max_guesses;
  if (options_.max_guesses > 0)
    core.scheduler.make_drafter = [] { return std::make_unique<NgramDrafter>(); };
  core.n_replicas = static_cast<int32_t>(n_replicas);
  core.weights = job_.weights.front();
  core.max_waiting = options_.max_waiting;
  core.itl_target_ms = options_.itl_target_ms;
  core.guides = guides_;
  core.n_mask_threads = guides_ ? kMaskThreads : 0;
  core.sleep_timeout_ms = options_.deadlines.sleep_ms;
  core.stop_timeout_ms = options_.deadlines.stop_ms + kEndOfKilledRanksMs;
  core_ = std::make_unique<InferenceCore>(
      core,
      [this, taken, n_replicas](boost::asio::io_context& io, int replica, Group::Events events) {
        const auto index = static_cast<size_t>(replica);
        if (index >= n_replicas) see_new(index);
        const GroupState* group =
            taken == nullptr || index >= n_replicas ? nullptr : &taken->core.replicas[index].group;
        return make_process_group(io, launch_spec(replica), std::move(events), group);
      },
      std::move(observer), listener());
  if (taken != nullptr) core_->restore(std::move(taken->core));
  push_ = std::make_unique<WeightsPush>(
      *core_, WeightsPush::Served{.model = place_.folder,
                                  .config = config_,
                                  .encodings = encodings_text(packed.encodings()),
                                  .format = options_.format,
                                  .packed = {packed.path()},
                                  .fallback = run_folder_.path(),
                                  .push_ms = options_.deadlines.push_ms});
}

std::string Session::push(const std::string& model, const WeightsPush::Tell& tell) {
  return push_->push(model, tell);
}

void Session::refuse_pushes() { push_->refuse("the server is shutting down"); }

void Session::start() { core_->start(); }
void Session::run() { core_->run(); }

void Session::describe(HandoverState& state) const {
  state.secret = secret_;
  state.run_folder = run_folder_.path().string();
  state.run_folder_lock = run_folder_.lock();
  state.model = model_path_.string();
  const std::lock_guard lock(mutex_);
  for (const ReplicaSeen& seen : seen_) state.replica_hosts.push_back(seen.hosts);
}

void Session::stop() { core_->stop(); }

std::string Session::banner() const {
  std::string out = fmt::format("model    {} ({}, {})\n", place_.folder.string(),
                                config_.architecture, weight_format_name(options_.format));
  const std::vector<ReplicaSnapshot> replicas = core_->replicas();
  out += fmt::format("layout   {} {} x TP {} x PP {}, launcher {}\n", replicas.size(),
                     replicas.size() == 1 ? "replica" : "replicas", options_.layout.tp,
                     options_.layout.pp, launcher_name(options_.launcher));
  for (const ReplicaSnapshot& replica : replicas) {
    for (const RankInfo& rank : replica.ranks) {
      out += fmt::format("rank     {}{} -> {} -> {} (weights {}, KV {}, pid {})\n",
                         replicas.size() == 1 ? "" : fmt::format("{}.", replica.replica),
                         rank.world_rank, rank.host, rank.device, human_bytes(rank.weight_bytes),
                         human_bytes(rank.kv_bytes), rank.pid);
    }
  }
  const ServiceStatus status = core_->status();
  out += fmt::format("context  {} tokens\n", job_.context_length);
  out +=
      fmt::format("KV       {} blocks of {} tokens: {} tokens in all, {}\n", status.n_kv_blocks,
                  kBlockSize, int64_t{status.n_kv_blocks} * kBlockSize, dtype_name(job_.kv_dtype));
  return out;
}

}  // namespace trireme
