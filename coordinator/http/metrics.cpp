#include "coordinator/http/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "comm/control/step_plan.h"

namespace trireme {
namespace {

using prometheus::Histogram;
using prometheus::Labels;
using Buckets = Histogram::BucketBoundaries;

const Buckets kEndToEndBuckets = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const Buckets kFirstTokenBuckets = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                    1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
const Buckets kInterTokenBuckets = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                    .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
const Buckets kFineTokenBuckets = {.0001, .00025, .0005, .001, .0015, .002, .003, .004, .005, .0075,
                                   .01,   .015,   .02,   .03,  .04,   .05,  .075, .1,   .25,  1};
// Tokens of a request or a step: 1, 2, 5 and their tens.
const Buckets kTokenCountBuckets = {1,   2,    5,    10,   20,    50,    100,   200,
                                    500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};

// Cause and reason words come from a few places in this program; a bound guards against a new one
// that is not a word from a list.
constexpr size_t kMaxLabelValues = 64;

const char* finished_reason(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kCancelled: return "abort";
    default: return "error";
  }
}

}  // namespace

struct Metrics::State {
  explicit State(MetricsOptions metrics_options)
      : options(std::move(metrics_options)),
        base{{"model_name", options.model_name}, {"engine", "0"}} {}

  const MetricsOptions options;
  const Labels base;
  prometheus::Registry registry;
  std::mutex mutex;  // guards the maps below

  using CounterFamily = prometheus::Family<prometheus::Counter>;
  using GaugeFamily = prometheus::Family<prometheus::Gauge>;

  Labels with(const std::string& name, const std::string& value) const {
    Labels labels = base;
    labels[name] = value;
    return labels;
  }

  prometheus::Gauge& gauge(const char* name, const char* help) {
    return gauges(name, help).Add(base);
  }
  GaugeFamily& gauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }
  prometheus::Counter& counter(const char* name, const char* help) {
    return counters(name, help).Add(base);
  }
  CounterFamily& counters(const char* name, const char* help) {
    CounterFamily& family = prometheus::BuildCounter().Name(name).Help(help).Register(registry);
    counters_by_name[name] = &family;
    return family;
  }
  Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return histogram(name, help, base, buckets);
  }
  Histogram& histogram(const char* name, const char* help, const Labels& labels,
                       const Buckets& buckets) {
    Histogram& added =
        prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels, buckets);
    histograms_by_name[{name, labels}] = &added;
    return added;
  }
  Histogram& step_time(const char* phase) {
    return histogram("trireme_step_seconds",
                     "Time by which a step held up those behind it, by what it computed",
                     with("phase", phase), kFineTokenBuckets);
  }
  std::map<std::string, CounterFamily*> counters_by_name;
  std::map<std::pair<std::string, Labels>, Histogram*> histograms_by_name;

  // A counter of a family with one more label; values past the bound share "other".
  prometheus::Counter& labelled(CounterFamily& family, const std::string& label,
                                const std::string& value) {
    std::lock_guard lock(mutex);
    size_t& n_values = n_label_values[&family];
    Labels labels = with(label, value);
    if (!family.Has(labels) && ++n_values > kMaxLabelValues) labels = with(label, "other");
    return family.Add(labels);
  }
  std::map<const CounterFamily*, size_t> n_label_values;

  // Adds what a running total grew by.
  void follow_total(prometheus::Counter& total_counter, const std::string& key, double seconds) {
    std::lock_guard lock(mutex);
    double& last = last_totals[key];
    total_counter.Increment(seconds >= last ? seconds - last : seconds);
    last = seconds;
  }
  std::map<std::string, double> last_totals;

  prometheus::Gauge& running = gauge("vllm:num_requests_running", "Requests in the batch");
  prometheus::Gauge& waiting = gauge("vllm:num_requests_waiting", "Requests in the queue");
  prometheus::Gauge& kv_usage =
      gauge("vllm:kv_cache_usage_perc", "Part of the KV blocks that running requests hold, 0 to 1");
  GaugeFamily& waiting_by_reason =
      gauges("vllm:num_requests_waiting_by_reason", "Requests in the queue, by what they wait for");
  prometheus::Gauge& waiting_capacity = waiting_by_reason.Add(with("reason", "capacity"));
  prometheus::Gauge& waiting_group = waiting_by_reason.Add(with("reason", "no_group"));

  prometheus::Counter& prompt_tokens =
      counter("vllm:prompt_tokens_total", "Prompt tokens of finished requests");
  prometheus::Counter& generation_tokens =
      counter("vllm:generation_tokens_total", "Tokens generated");
  CounterFamily& success = counters("vllm:request_success_total", "Requests that ended, by reason");
  prometheus::Counter& preemptions =
      counter("vllm:num_preemptions_total", "Sequences that lost their KV blocks to others");
  prometheus::Counter& prefix_queries =
      counter("vllm:prefix_cache_queries_total", "Tokens that the prefix cache was asked for");
  prometheus::Counter& prefix_hits =
      counter("vllm:prefix_cache_hits_total", "Tokens whose KV was in the prefix cache");
  prometheus::Counter& prompt_tokens_cached =
      counter("vllm:prompt_tokens_cached_total", "Prompt tokens whose KV was in the prefix cache");
  prometheus::Counter& guesses =
      counter("vllm:spec_decode_num_drafts_total", "Steps of sequences with guessed tokens");
  prometheus::Counter& guessed_tokens =
      counter("vllm:spec_decode_num_draft_tokens_total", "Tokens guessed before they were drawn");
  prometheus::Counter& right_tokens =
      counter("vllm:spec_decode_num_accepted_tokens_total", "Of those, the ones that were drawn");
  GaugeFamily& kv_blocks =
      gauges("trireme_kv_blocks",
             "KV blocks, by what they hold: of running requests, what can be used again, nothing");
  prometheus::Gauge& kv_blocks_running = kv_blocks.Add(with("use", "running"));
  prometheus::Gauge& kv_blocks_cached = kv_blocks.Add(with("use", "cached"));
  prometheus::Gauge& kv_blocks_free = kv_blocks.Add(with("use", "free"));
  CounterFamily& rejections =
      counters("vllm:admission_rejections_total", "Requests that were not taken, by reason");

  Histogram& e2e =
      histogram("vllm:e2e_request_latency_seconds", "Submission to last token", kEndToEndBuckets);
  Histogram& queue_time = histogram("vllm:request_queue_time_seconds",
                                    "Submission to the first step", kEndToEndBuckets);
  Histogram& prefill_time =
      histogram("vllm:request_prefill_time_seconds", "First step to first token", kEndToEndBuckets);
  Histogram& decode_time =
      histogram("vllm:request_decode_time_seconds", "First token to last token", kEndToEndBuckets);
  Histogram& first_token = histogram("vllm:time_to_first_token_seconds",
                                     "Submission to first token", kFirstTokenBuckets);
  Histogram& inter_token = histogram("vllm:inter_token_latency_seconds",
                                     "Between two tokens of a request", kInterTokenBuckets);
  Histogram& inter_token_fine =
      histogram("trireme_inter_token_latency_seconds",
                "Between two tokens of a request, finer buckets", kFineTokenBuckets);
  Histogram& time_per_token =
      histogram("vllm:request_time_per_output_token_seconds",
                "Mean time between the tokens of a request", kInterTokenBuckets);
  Histogram& request_prompt_tokens =
      histogram("vllm:request_prompt_tokens", "Prompt tokens of a request", kTokenCountBuckets);
  Histogram& request_generation_tokens = histogram(
      "vllm:request_generation_tokens", "Tokens generated for a request", kTokenCountBuckets);
  Histogram& iteration_tokens =
      histogram("vllm:iteration_tokens_total", "Tokens in a step", kTokenCountBuckets);
  Histogram& prefill_step = step_time("prefill");
  Histogram& decode_step = step_time("decode");
  Histogram& mixed_step = step_time("mixed");

  GaugeFamily& cache_config =
      gauges("vllm:cache_config_info", "Always 1; the labels tell the KV cache's shape");
  prometheus::Gauge* cache_config_row = nullptr;  // under mutex
  int32_t cache_config_blocks = -1;               // under mutex

  GaugeFamily& memory = gauges("trireme_memory_bytes",
                               "Bytes that a rank has mapped, by use: weights, KV, workspace");
  std::vector<RankMemory> ranks_memory;         // under mutex
  std::vector<prometheus::Gauge*> memory_rows;  // under mutex
  GaugeFamily& kv_fragmentation =
      gauges("trireme_kv_fragmentation_ratio",
             "Part of the running requests' KV blocks that is there for tokens to come, 0 to 1");
  prometheus::Gauge& sleep_state =
      gauge("trireme_sleep_state", "1 while the server sleeps and has no ranks, else 0");

  prometheus::Gauge& ranks_alive = gauge("trireme_ranks_alive", "Ranks connected");
  CounterFamily& restarts =
      counters("trireme_group_restarts_total", "Groups lost and relaunched, by cause");
  prometheus::Counter& replayed =
      counter("trireme_replayed_requests_total", "Requests computed again after a lost group");
  CounterFamily& stage_busy = counters("trireme_stage_busy_seconds_total",
                                       "Time a pipeline stage's first rank spent computing");
  prometheus::Gauge& bubble_ratio =
      gauge("trireme_pipeline_bubble_ratio",
            "Part of the stages' time, in the last seconds with work, in which they waited for "
            "other stages or for plans, 0 to 1");
  prometheus::Counter& comm_time =
      counter("trireme_comm_seconds_total", "Time ranks spent in communication");
  prometheus::Gauge& load_progress =
      gauge("trireme_model_load_progress", "Part of the weights loaded, 0 to 1");
  prometheus::Gauge& drain_state =
      gauge("trireme_drain_state", "1 while the server drains, else 0");
  prometheus::Gauge& journal_failing =
      gauge("trireme_journal_failing", "1 while the journal cannot be written, else 0");
  prometheus::Gauge& weights_generation =
      gauge("trireme_weights_generation",
            "Number of the weights of new requests; each push has one of its own");
  GaugeFamily& weights_info =
      gauges("trireme_weights_info", "Always 1; the label tells the weights of new requests");
  prometheus::Gauge* weights_row = nullptr;  // under mutex
  CounterFamily& pushes = counters("trireme_pushes_total", "Changes of the weights, by outcome");
  CounterFamily& http_requests =
      counters("trireme_http_requests_total", "HTTP responses, by route and status");
};

Metrics::Metrics(MetricsOptions options) : state_(std::make_unique<State>(std::move(options))) {
  State& s = *state_;
  s.gauges("trireme_build_info", "Always 1; the labels tell the build")
      .Add({{"version", s.options.version}})
      .Set(1);
  for (const FinishReason reason : {FinishReason::kStop, FinishReason::kLength,
                                    FinishReason::kCancelled, FinishReason::kError}) {
    s.labelled(s.success, "finished_reason", finished_reason(reason));
  }
}

Metrics::~Metrics() = default;

ServingObserver Metrics::observer() {
  State& s = *state_;
  ServingObserver observer;
  observer.on_queue_time = [&s](double seconds) { s.queue_time.Observe(seconds); };
  observer.on_prefill_time = [&s](double seconds) { s.prefill_time.Observe(seconds); };
  // The service tells a request's decode time right before its end, on one thread.
  const auto decode_seconds = std::make_shared<double>(0.0);
  observer.on_decode_time = [&s, decode_seconds](double seconds) {
    s.decode_time.Observe(seconds);
    *decode_seconds = seconds;
  };
  observer.on_first_token = [&s](double seconds) {
    s.first_token.Observe(seconds);
    s.generation_tokens.Increment();
  };
  observer.on_inter_token = [&s](double seconds) {
    s.inter_token.Observe(seconds);
    s.inter_token_fine.Observe(seconds);
    s.generation_tokens.Increment();
  };
  observer.on_finished = [&s, decode_seconds](double e2e_seconds, int32_t n_prompt_tokens,
                                              int32_t n_output_tokens, FinishReason reason) {
    s.labelled(s.success, "finished_reason", finished_reason(reason)).Increment();
    s.prompt_tokens.Increment(n_prompt_tokens);
    s.request_prompt_tokens.Observe(n_prompt_tokens);
    s.request_generation_tokens.Observe(n_output_tokens);
    s.e2e.Observe(e2e_seconds);
    if (n_output_tokens > 1) s.time_per_token.Observe(*decode_seconds / (n_output_tokens - 1));
  };
  observer.on_iteration = [&s](int32_t n_tokens) { s.iteration_tokens.Observe(n_tokens); };
  observer.on_step = [&s](StepPhase phase, double seconds) {
    Histogram& of_phase = phase == StepPhase::kPrefill  ? s.prefill_step
                          : phase == StepPhase::kDecode ? s.decode_step
                                                        : s.mixed_step;
    of_phase.Observe(seconds);
  };
  observer.on_preemption = [&s] { s.preemptions.Increment(); };
  observer.on_prefix_cache = [&s](const PrefixCacheCounts& more) {
    s.prefix_queries.Increment(static_cast<double>(more.n_queried));
    s.prefix_hits.Increment(static_cast<double>(more.n_hit));
    s.prompt_tokens_cached.Increment(static_cast<double>(more.n_cached_prompt));
  };
  observer.on_guesses = [&s](const GuessCounts& more) {
    s.guesses.Increment(static_cast<double>(more.n_plans));
    s.guessed_tokens.Increment(static_cast<double>(more.n_guessed));
    s.right_tokens.Increment(static_cast<double>(more.n_right));
  };
  observer.on_group_lost = [&s](const std::string& cause) {
    s.labelled(s.restarts, "cause", cause).Increment();
  };
  observer.on_replayed = [&s](int32_t n_requests) { s.replayed.Increment(n_requests); };
  return observer;
}

void Metrics::set_status(const ServiceStatus& status) {
  State& s = *state_;
  s.running.Set(status.n_running);
  s.waiting.Set(status.n_waiting);
  s.waiting_capacity.Set(status.ready ? status.n_waiting : 0);
  s.waiting_group.Set(status.ready ? 0 : status.n_waiting);
  s.kv_usage.Set(status.kv_usage);
  s.kv_blocks_running.Set(status.n_running_kv_blocks);
  s.kv_blocks_free.Set(status.n_free_kv_blocks);
  s.kv_blocks_cached.Set(status.n_kv_blocks - status.n_running_kv_blocks - status.n_free_kv_blocks);
  s.drain_state.Set(status.draining ? 1 : 0);
  s.sleep_state.Set(status.sleep == SleepPhase::kAsleep ? 1 : 0);
  std::lock_guard lock(s.mutex);
  if (s.cache_config_blocks == status.n_kv_blocks) return;
  if (s.cache_config_row != nullptr) s.cache_config.Remove(s.cache_config_row);
  s.cache_config_blocks = status.n_kv_blocks;
  Labels labels = s.with("block_size", std::to_string(kBlockSize));
  labels["num_gpu_blocks"] = std::to_string(status.n_kv_blocks);
  s.cache_config_row = &s.cache_config.Add(labels);
  s.cache_config_row->Set(1);
}

void Metrics::set_ranks_alive(int n_ranks) { state_->ranks_alive.Set(n_ranks); }

void Metrics::set_memory(const std::vector<RankMemory>& ranks) {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  if (ranks == s.ranks_memory) return;
  s.ranks_memory = ranks;
  std::vector<prometheus::Gauge*> rows;
  for (const RankMemory& rank : ranks) {
    Labels labels = s.with("replica", std::to_string(rank.replica));
    labels["rank"] = std::to_string(rank.rank);
    for (const auto& [use, n_bytes] :
         {std::pair("weights", rank.weight_bytes), std::pair("kv", rank.kv_bytes),
          std::pair("workspace", rank.workspace_bytes)}) {
      labels["use"] = use;
      rows.push_back(&s.memory.Add(labels));
      rows.back()->Set(static_cast<double>(n_bytes));
    }
  }
  for (prometheus::Gauge* former : std::exchange(s.memory_rows, rows)) {
    if (std::find(rows.begin(), rows.end(), former) == rows.end()) s.memory.Remove(former);
  }
}

void Metrics::set_kv_fragmentation(int replica, double ratio) {
  State& s = *state_;
  s.kv_fragmentation.Add(s.with("replica", std::to_string(replica))).Set(ratio);
}

void Metrics::set_journal_failing(bool failing) { state_->journal_failing.Set(failing ? 1 : 0); }

void Metrics::set_weights(const ServedWeights& weights) {
  State& s = *state_;
  s.weights_generation.Set(static_cast<double>(weights.generation));
  std::lock_guard lock(s.mutex);
  if (s.weights_row != nullptr) s.weights_info.Remove(s.weights_row);
  s.weights_row = &s.weights_info.Add(s.with("weights", weights.id));
  s.weights_row->Set(1);
}

void Metrics::count_push(const std::string& outcome) {
  State& s = *state_;
  s.labelled(s.pushes, "outcome", outcome).Increment();
}

void Metrics::set_load_progress(double fraction) { state_->load_progress.Set(fraction); }

void Metrics::set_stage_busy(int stage, double seconds) {
  State& s = *state_;
  const std::string name = std::to_string(stage);
  s.follow_total(s.labelled(s.stage_busy, "stage", name), "stage " + name, seconds);
}

void Metrics::set_bubble_ratio(double ratio) { state_->bubble_ratio.Set(ratio); }

void Metrics::set_comm(double seconds) { state_->follow_total(state_->comm_time, "comm", seconds); }

void Metrics::count_http_response(const std::string& route, int status) {
  State& s = *state_;
  Labels labels = {{"path", route}, {"code", std::to_string(status)}};
  s.http_requests.Add(labels).Increment();
}

void Metrics::count_rejection(const std::string& reason) {
  State& s = *state_;
  s.labelled(s.rejections, "reason", reason).Increment();
}

MetricsState Metrics::state() const {
  MetricsState state;
  for (const prometheus::MetricFamily& family : state_->registry.Collect()) {
    for (const prometheus::ClientMetric& metric : family.metric) {
      MetricSeries series{.name = family.name, .labels = {}, .value = 0, .buckets = {}};
      for (const auto& label : metric.label) series.labels[label.name] = label.value;
      if (family.type == prometheus::MetricType::Counter) {
        series.value = metric.counter.value;
      } else if (family.type == prometheus::MetricType::Histogram) {
        series.value = metric.histogram.sample_sum;
        uint64_t below = 0;
        for (const auto& bucket : metric.histogram.bucket) {
          series.buckets.push_back(static_cast<double>(bucket.cumulative_count - below));
          below = bucket.cumulative_count;
        }
      } else {
        continue;
      }
      state.series.push_back(std::move(series));
    }
  }
  const std::lock_guard lock(state_->mutex);
  state.followed = state_->last_totals;
  return state;
}

// Series that this build no longer has, or has with other buckets, end.
void Metrics::go_on_from(const MetricsState& state) {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  for (const MetricSeries& series : state.series) {
    const auto counter = s.counters_by_name.find(series.name);
    if (counter != s.counters_by_name.end()) {
      if (!counter->second->Has(series.labels)) ++s.n_label_values[counter->second];
      counter->second->Add(series.labels).Increment(series.value);
    }
    const auto histogram = s.histograms_by_name.find({series.name, series.labels});
    if (histogram == s.histograms_by_name.end()) continue;
    const size_t n_buckets = histogram->second->Collect().histogram.bucket.size();
    if (series.buckets.size() == n_buckets)
      histogram->second->ObserveMultiple(series.buckets, series.value);
  }
  s.last_totals = state.followed;
}

std::string Metrics::serialize() const {
  return prometheus::TextSerializer().Serialize(state_->registry.Collect());
}

}  // namespace trireme
