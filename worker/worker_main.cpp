#include "worker/worker_main.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "comm/control/build_id.h"
#include "comm/control/world_shape.h"
#include "comm/mpi_world.h"
#include "comm/rank_place.h"
#include "comm/self_communicator.h"
#include "comm/shared_region.h"
#include "kernels/cpu_topology.h"
#include "kernels/int_math.h"
#include "kernels/result.h"
#include "model/packed_model.h"
#include "worker/engine.h"
#include "worker/kv_memory.h"
#include "worker/monitored_communicator.h"
#include "worker/rank_tasks.h"
#include "worker/weights_loader.h"
#include "worker/worker_options.h"

namespace trireme {
namespace {

constexpr int kExitBadStart = 1;
constexpr int kExitLostPeer = 76;
constexpr int kDialTimeoutMs = 10'000;
constexpr int kJoinTimeoutMs = 1'800'000;  // a coordinator that joins a job may have to pack first

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

// Where the launcher told OpenMPI to keep its shared memory; on another host than the coordinator's
// nobody made that folder.
void make_backing_folder() {
  const char* folder = std::getenv("OMPI_MCA_btl_vader_backing_directory");
  if (folder == nullptr) return;
  std::error_code ignored;  // OpenMPI says what is wrong with it
  std::filesystem::create_directories(folder, ignored);
}

RankHello make_hello(const WorkerOptions& options, int rank, int world) {
  return {.secret = options.secret,
          .epoch = options.epoch,
          .world_rank = rank,
          .world_size = world,
          .pid = getpid(),
          .host = host_name(),
          .build = std::string(build_id())};
}

RankComms make_comms(const WorkerOptions& options, const JobSpec& job, MpiWorld* mpi, int rank) {
  const WorldShape shape = world_shape(job);
  const CommOptions comm{.deadline = std::chrono::milliseconds(job.comm_timeout_ms)};
  if (mpi != nullptr) {
    RankComms comms = mpi->make_comms(shape, comm);
    if (!mpi->region_problem().empty()) {
      std::fprintf(stderr, "trireme worker: the ranks of this host use MPI: %s\n",
                   mpi->region_problem().c_str());
    }
    return comms;
  }
  if (options.world == 1) {
    return {std::make_unique<SelfCommunicator>(), std::make_unique<SelfCommunicator>()};
  }
  return make_region_comms(SharedRegion::attach(options.region_fd, shape), rank, comm);
}

// KV blocks this rank has room for: what it was told, else enough for every slot's longest
// sequence.
int32_t kv_capacity(const JobSpec& job, const ModelConfig& config, const ShardPlan& shard) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / kKvBlockTokens;  // slots: int32
  const int64_t wanted =
      std::min(kMost, int64_t{job.max_slots} * div_ceil(job.context_length, kKvBlockTokens));
  if (job.kv_bytes == 0) return static_cast<int32_t>(wanted);
  const auto block = static_cast<int64_t>(KvPool::block_bytes(config, shard, job.kv_dtype));
  return static_cast<int32_t>(std::min(wanted, job.kv_bytes / block));
}

// The threads of a rank and where they run: a part of what the ranks of its host and of the other
// replicas there share.
struct RankThreads {
  int32_t n_threads = 1;
  std::vector<int> cpus;
};

RankThreads rank_threads(const JobSpec& job, CpuShare in_job) {
  const CpuShare share{.index = job.replica * in_job.count + in_job.index,
                       .count = job.n_replicas * in_job.count};
  const std::vector<Cpu> cpus = available_cpus();
  const int limit = cpu_limit();
  const int n = job.n_threads > 0 ? job.n_threads : default_threads(cpus, limit, share.count);
  return {.n_threads = n, .cpus = cpus_of_share(cpus, limit, share, n)};
}

// What the content of a rank's KV pool depends on, but for the number of blocks and the weights:
// each block belongs to a sequence, which has one generation of weights for good.
std::string kv_content(const std::string& numerics_id, Layout layout, int rank) {
  return numerics_id + "/" + std::to_string(layout.tp) + "x" + std::to_string(layout.pp) + "/" +
         std::to_string(rank);
}

struct LoadedRank {
  std::unique_ptr<KvMemory> kv_memory;
  std::unique_ptr<Engine> engine;
};

// Everything between the job and the first plan.
LoadedRank load(const WorkerOptions& options, RankLink& link, MpiWorld* mpi, int rank) {
  const JobSpec& job = link.job();
  const KernelTable* kernels = cpu_kernels(options.kernels);
  if (kernels == nullptr) {
    throw EnvironmentError("TRIREME_KERNELS=" + options.kernels +
                           " cannot run on this machine: unset it to use the best that can");
  }
  TRIREME_CHECK(!job.weights.empty());
  const auto file = open_weights(job.weights.front());
  const Result<ShardPlan> shard = make_shard_plan(file->config(), job.layout, rank);
  if (!shard) throw EnvironmentError(shard.error().message);
  const RankThreads threads =
      rank_threads(job, mpi != nullptr ? mpi->cpu_share() : CpuShare{rank, options.world});
  const auto on_progress = [&](uint64_t done, uint64_t total) { link.set_loaded(done, total); };
  EngineParts parts{.config = file->config(),
                    .shard = *shard,
                    .generation = job.weights.front().generation,
                    .weights = map_stage_weights(file, *shard, on_progress),
                    .format = file->format(),
                    .kernels = kernels,
                    .comms = make_comms(options, job, mpi, rank),
                    .n_threads = threads.n_threads,
                    .cpus = threads.cpus,
                    .context_length = job.context_length,
                    .max_slots = job.max_slots,
                    .max_batch_tokens = job.max_batch_tokens,
                    .max_plans_in_flight = job.max_plans_in_flight,
                    .kv_dtype = job.kv_dtype,
                    .fuse = job.fuse,
                    .wait_mask = [&link](uint64_t step_id, uint64_t request_id) {
                      return link.wait_mask(step_id, request_id);
                    }};
  parts.comms.tp = monitor(std::move(parts.comms.tp), link);
  parts.comms.pp = monitor(std::move(parts.comms.pp), link);
  std::optional<StageWeights> newer;
  if (job.weights.size() > 1) {
    newer = map_stage_weights(open_weights(job.weights.back()), *shard, on_progress);
  }
  const int32_t capacity = kv_capacity(job, parts.config, parts.shard);
  const uint64_t block = KvPool::block_bytes(parts.config, parts.shard, parts.kv_dtype);
  const std::string numerics_id = Engine::numerics_id(*kernels, file->encodings(), parts.kv_dtype);
  const bool is_near = job.kv_host == this_host();
  auto kv_memory = std::make_unique<KvMemory>(is_near ? job.kv_memory : MemoryAddress{},
                                              kv_content(numerics_id, job.layout, rank));
  const GroupStart start = link.ready_and_wait_start(
      {.kv_blocks = capacity,
       .kv_kept = kv_memory->n_kept_blocks(),
       .numerics_id = numerics_id,
       .device = "cpu:" + std::string(kernels->name) + ", " + std::to_string(threads.n_threads) +
                 (threads.n_threads == 1 ? " thread" : " threads"),
       .weight_bytes = parts.weights.size_bytes + (newer ? newer->size_bytes : 0),
       .kv_bytes = block * static_cast<uint64_t>(capacity),
       .workspace_bytes = Engine::workspace_bytes(parts)});
  TRIREME_CHECK(start.kv_blocks > 0 && start.kv_blocks <= capacity);
  parts.kv_blocks = start.kv_blocks;
  const uint64_t pool =
      KvPool::pool_bytes(parts.config, parts.shard, parts.kv_dtype, start.kv_blocks);
  const int fd = kv_memory->prepare(pool, start.kv_blocks, start.keep_kv);
  if (fd >= 0) parts.kv_file = {.fd = fd, .offset = KvMemory::kOffset};
  auto engine = std::make_unique<Engine>(std::move(parts));
  if (newer) {
    engine->add(engine->make_generation(job.weights.back().generation, *std::move(newer)));
  }
  return {std::move(kv_memory), std::move(engine)};
}

int run_rank(WorkerOptions options, const std::optional<std::string>& joined_endpoint) {
  set_float_mode();
  std::optional<MpiWorld> mpi;
  if (options.comm == WorkerOptions::Comm::kMpi) {
    make_backing_folder();
    mpi.emplace();
  }
  if (joined_endpoint) {
    const std::string endpoint = mpi->share_text(*joined_endpoint);
    const size_t space = endpoint.find(' ');
    options.coordinator = endpoint.substr(0, space);
    options.secret = endpoint.substr(space + 1);
  }
  const int rank = mpi ? mpi->rank() : options.rank;
  const int world = mpi ? mpi->size() : options.world;
  const auto link =
      RankLink::connect({.address = options.coordinator,
                         .hello = make_hello(options, rank, world),
                         .connect_timeout_ms = joined_endpoint ? kJoinTimeoutMs : kDialTimeoutMs});
  LoadedRank loaded;
  try {
    loaded = load(options, *link, mpi ? &*mpi : nullptr, rank);
  } catch (const EnvironmentError& error) {
    link->send_failure(error.what());
    throw;
  }
  serve_tasks(*link, *loaded.engine);
  loaded.engine.reset();
  if (mpi) mpi->finalize(std::chrono::milliseconds(link->job().silence_ms));
  return 0;
}

int run_to_the_end(const WorkerOptions& options,
                   const std::optional<std::string>& joined_endpoint) {
  try {
    return run_rank(options, joined_endpoint);
  } catch (const CommError& error) {
    // The group is lost; the supervisor starts another. Nothing here may wait for peers any more.
    std::fprintf(stderr, "trireme worker: %s\n", error.what());
    _exit(kExitLostPeer);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "trireme worker: %s\n", error.what());
    _exit(kExitBadStart);
  }
}

}  // namespace

int worker_main(int argc, char** argv) {
  const Result<WorkerOptions> options = parse_worker_options(argc, argv);
  if (!options) {
    std::fprintf(stderr, "%s\n", options.error().message.c_str());
    return 2;
  }
  return run_to_the_end(*options, std::nullopt);
}

int joined_worker_main(const std::string& endpoint) {
  WorkerOptions options;
  options.comm = WorkerOptions::Comm::kMpi;
  return run_to_the_end(options, endpoint);
}

}  // namespace trireme
