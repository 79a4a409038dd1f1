#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>
#include <sstream>

#include "coordinator/cli/bench_report.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/say.h"
#include "coordinator/cli/session.h"
#include "kernels/int_math.h"
#include "kernels/result.h"
#include "model/kv_pool.h"
#include "model/model_folder.h"
#include "model/rope_frequencies.h"

namespace trireme {
namespace {

constexpr int32_t kSpareTokens = 2 * kKvBlockTokens;  // a block for each sequence to grow into
constexpr int32_t kStartPrompt = 16;  // tokens of the prompt that times the start of the process

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Since the kernel started this process (field 22 of /proc/self/stat, after a name that may hold
// spaces), to a clock tick of usually 10 ms.
double process_age_s() {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  double start_ticks = 0.0;
  fields >> start_ticks;
  timespec uptime{};
  clock_gettime(CLOCK_BOOTTIME, &uptime);
  return static_cast<double>(uptime.tv_sec) + static_cast<double>(uptime.tv_nsec) * 1e-9 -
         start_ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// Resident bytes of a process of this machine; 0 where it cannot be read.
uint64_t resident_bytes(int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/statm", pid));
  uint64_t total_pages = 0;
  uint64_t resident_pages = 0;
  file >> total_pages >> resident_pages;
  return file ? resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

// Requests submitted together, and when their tokens came. The service's thread writes it.
class BatchRecorder {
 public:
  ServingObserver observer() {
    ServingObserver o;
    o.on_iteration = [this](int32_t) {
      const std::lock_guard lock(mutex_);
      batch_.step_times_s.push_back(now_s());
    };
    o.on_group_lost = [this](const std::string& cause) {
      const std::lock_guard lock(mutex_);
      error_ = "ranks were lost (" + cause + "): nothing was measured; try again";
    };
    return o;
  }

  void begin(int32_t n_streams) {
    const std::lock_guard lock(mutex_);
    batch_ = {};
    batch_.streams.resize(static_cast<size_t>(n_streams));
    n_alive_ = n_streams;
  }

  void submit(InferenceService& service, size_t stream, GenerateRequest request) {
    {
      const std::lock_guard lock(mutex_);
      batch_.streams[stream].submitted_s = now_s();
    }
    const auto id = service.submit(
        std::move(request), [this, stream](GenerateEvent&& event) { on_event(stream, event); });
    if (!id) throw EnvironmentError(id.error().message);
  }

  // The service ends every request, so this ends.
  BenchBatch wait() {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return n_alive_ == 0; });
    if (!error_.empty()) throw EnvironmentError(error_);
    return std::move(batch_);
  }

 private:
  void on_event(size_t index, const GenerateEvent& event) {
    const std::lock_guard lock(mutex_);
    BenchStream& stream = batch_.streams[index];
    if (!event.token_ids.empty() && stream.token_steps.empty()) stream.first_token_s = now_s();
    stream.token_steps.insert(stream.token_steps.end(), event.token_ids.size(),
                              static_cast<int32_t>(batch_.step_times_s.size()) - 1);
    if (event.finish == FinishReason::kNone) return;
    if (event.finish == FinishReason::kError) error_ = event.error;
    if (--n_alive_ == 0) ended_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable ended_;
  BenchBatch batch_;
  int32_t n_alive_ = 0;
  std::string error_;
};

int32_t context_of(const BenchOptions& options, int32_t n_prompt) {
  return options.context > 0 ? options.context : n_prompt;
}

// Tokens that the longest stream of a row decodes to.
int32_t n_to_generate(const BenchOptions& options, int32_t n_streams, int32_t context) {
  return 1 + options.n_generated +
         prefill_steps(n_streams, context, options.cluster.max_batch_tokens);
}

int32_t row_tokens(const BenchOptions& options, int32_t n_prompt, int32_t n_streams) {
  const int32_t context = context_of(options, n_prompt);
  return std::max(n_prompt + 1, context + n_to_generate(options, n_streams, context));
}

// The same options with room for every row.
BenchOptions with_room(BenchOptions options) {
  ClusterOptions& cluster = options.cluster;
  const int32_t most = *std::max_element(options.n_streams.begin(), options.n_streams.end());
  cluster.max_sequences = std::max(cluster.max_sequences, most);
  cluster.max_batch_tokens = std::max(cluster.max_batch_tokens, cluster.max_sequences);
  int32_t needed = 0;
  for (const int32_t n_prompt : options.n_prompt_tokens) {
    for (const int32_t n_streams : options.n_streams) {
      needed = std::max(needed, row_tokens(options, n_prompt, n_streams));
    }
  }
  const int32_t longest =
      default_context_length(read_model_config(resolve_model(options.cluster.model)));
  const int32_t limit = cluster.context_length > 0 ? cluster.context_length : longest;
  if (needed > limit) {
    throw EnvironmentError(
        fmt::format("the longest row takes {} tokens and the context is {}: choose less with "
                    "--prompt, --context, --streams or --generate",
                    needed, limit));
  }
  if (cluster.context_length == 0) {
    cluster.context_length = std::min(longest, needed + kSpareTokens);
  }
  return options;
}

void check_options(const BenchOptions& options) {
  const auto check = [](const char* option, int32_t value, int32_t low, int32_t high) {
    if (value >= low && value <= high) return;
    throw EnvironmentError(
        fmt::format("{} {} is out of range: use {} to {}", option, value, low, high));
  };
  constexpr int32_t kMostTokens = 1 << 20;
  for (const int32_t n : options.n_prompt_tokens) check("--prompt", n, 1, kMostTokens);
  for (const int32_t n : options.n_streams) check("--streams", n, 1, 4096);
  check("--generate", options.n_generated, 1, kMostTokens);
  check("--context", options.context, 0, kMostTokens);
  check("--repeat", options.n_repeats, 1, 1000);
}

class Bench {
 public:
  explicit Bench(BenchOptions options)
      : options_(with_room(std::move(options))), session_(options_.cluster, recorder_.observer()) {}
  ~Bench() { session_.stop(); }  // before the recorder, which events still point to
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  BenchReport run() {
    session_.start();
    session_.wait_serving();
    run_batch(1, kStartPrompt, 1);
    BenchReport report;
    report.start_to_first_token_s = process_age_s();
    if (!options_.json) say(stdout, "{}\n", session_.banner());

    run_batch(1, options_.n_prompt_tokens.front(), 1);  // touches the memory of a large step
    for (const int32_t n_prompt : options_.n_prompt_tokens) {
      for (const int32_t n_streams : options_.n_streams) {
        BenchRow row = {n_prompt, n_streams, context_of(options_, n_prompt), {}, {}, {}};
        check_kv(row);
        say(stderr, "measuring: prompt {}, streams {}, {} times\n", n_prompt, n_streams,
            options_.n_repeats);
        for (int32_t i = 0; i < options_.n_repeats; ++i) measure(row);
        report.rows.push_back(std::move(row));
      }
    }
    describe(report);
    return report;
  }

 private:
  BenchBatch run_batch(int32_t n_streams, int32_t n_prompt, int32_t n_new) {
    recorder_.begin(n_streams);
    for (int32_t stream = 0; stream < n_streams; ++stream) {
      GenerateRequest request;
      request.prompt_ids = random_prompt(n_prompt);
      request.max_new_tokens = n_new;
      request.ignore_eos = true;
      recorder_.submit(session_.core(), static_cast<size_t>(stream), std::move(request));
    }
    return recorder_.wait();
  }

  std::vector<int32_t> random_prompt(int32_t n_tokens) {
    std::vector<int32_t> ids(static_cast<size_t>(n_tokens));
    const auto vocab_size = static_cast<uint64_t>(session_.config().vocab_size);
    for (int32_t& id : ids) id = static_cast<int32_t>(random_() % vocab_size);
    return ids;
  }

  // One stream gives both figures; of several, those that decode would slow the others' prompts.
  void measure(BenchRow& row) {
    const int64_t n_prompt_tokens = int64_t{row.n_prompt_tokens} * row.n_streams;
    const int32_t n_new = n_to_generate(options_, row.n_streams, row.context);
    const bool at_once = row.n_streams == 1 && row.context == row.n_prompt_tokens;
    const BenchBatch prefill = run_batch(row.n_streams, row.n_prompt_tokens, at_once ? n_new : 1);
    row.prefill_rates.push_back(prefill_rate(prefill, n_prompt_tokens));
    row.first_token_seconds.push_back(first_token_seconds(prefill));
    const double rate =
        decode_rate(at_once ? prefill : run_batch(row.n_streams, row.context, n_new));
    if (rate == 0.0) {
      throw EnvironmentError(
          fmt::format("{} streams never decoded at the same time: raise --generate or --kv-gib",
                      row.n_streams));
    }
    row.decode_rates.push_back(rate);
  }

  void check_kv(const BenchRow& row) {
    const int64_t n_tokens = row_tokens(options_, row.n_prompt_tokens, row.n_streams);
    const int64_t needed = row.n_streams * div_ceil<int64_t>(n_tokens, kKvBlockTokens);
    const int64_t there = session_.core().status().n_kv_blocks;
    if (needed <= there) return;
    throw EnvironmentError(
        fmt::format("{} streams of {} tokens need {} KV blocks and there are {}: raise --kv-gib",
                    row.n_streams, n_tokens, needed, there));
  }

  void describe(BenchReport& report) {
    const ClusterOptions& cluster = session_.options();
    report.model = session_.options().model;
    report.tp = cluster.layout.tp;
    report.pp = cluster.layout.pp;
    report.n_replicas = cluster.n_replicas;
    report.n_threads = cluster.n_threads;
    report.n_generated = options_.n_generated;
    for (const ReplicaSnapshot& replica : session_.core().replicas()) {
      for (const RankInfo& rank : replica.ranks) {
        report.ranks.push_back({static_cast<int>(report.ranks.size()), rank.weight_bytes,
                                rank.kv_bytes,
                                cluster.hosts.empty() ? resident_bytes(rank.pid) : 0});
      }
    }
  }

  BenchOptions options_;
  std::mt19937_64 random_{1};  // the same prompts every time, and no two alike
  BatchRecorder recorder_;
  Session session_;
};

}  // namespace

int bench_command(const BenchOptions& options) {
  check_options(options);
  const BenchReport report = Bench(options).run();
  say(stdout, "{}", options.json ? bench_json(report) : bench_text(report));
  return 0;
}

}  // namespace trireme
