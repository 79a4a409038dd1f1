#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/handover/metrics_state.h"
#include "coordinator/serving/inference_service.h"
#include "coordinator/serving/serving_observer.h"

namespace trireme {

struct MetricsOptions {
  std::string model_name;
  std::string version;
};

// What one rank has mapped.
struct RankMemory {
  int replica = 0;
  int rank = 0;
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t workspace_bytes = 0;
  bool operator==(const RankMemory&) const = default;
};

// Everything /metrics shows, in one registry. Thread-safe. Must outlive whoever holds observer().
class Metrics {
 public:
  explicit Metrics(MetricsOptions options);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // What the service calls as it works.
  ServingObserver observer();

  // Gauges that are read, not told: set from the service's status before each scrape.
  void set_status(const ServiceStatus& status);
  void set_ranks_alive(int n_ranks);
  // Of all ranks that serve now.
  void set_memory(const std::vector<RankMemory>& ranks);
  void set_kv_fragmentation(int replica, double ratio);  // Scheduler::kv_fragmentation
  void set_load_progress(double fraction);               // 0..1
  void set_journal_failing(bool failing);
  // Those of new requests.
  void set_weights(const ServedWeights& weights);
  // done, or failed: nothing has changed.
  void count_push(const std::string& outcome);
  // Total so far in the current group; a smaller value than before means that the group was
  // relaunched and counts from 0 again.
  void set_stage_busy(int stage, double seconds);
  void set_comm(double seconds);
  void set_bubble_ratio(double ratio);  // PipelineBubble::ratio

  // `route` is one of the route table's paths or "other".
  void count_http_response(const std::string& route, int status);
  // Why a request was not taken: queue_full, draining, unavailable, sleeping, context_length,
  // key_limit.
  void count_rejection(const std::string& reason);

  // For a handover (coordinator/handover), so that nothing that only grows begins again.
  MetricsState state() const;
  void go_on_from(const MetricsState& state);

  // Prometheus text format 0.0.4.
  std::string serialize() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
