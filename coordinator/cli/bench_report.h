#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/cli/bench_measure.h"

namespace trireme {

// What was measured for one number of streams and one length of prompt. A value a repeat.
struct BenchRow {
  int32_t n_prompt_tokens = 0;
  int32_t n_streams = 0;
  int32_t context = 0;                // tokens in the cache of each stream when it begins to decode
  std::vector<double> prefill_rates;  // tokens/s
  std::vector<double> first_token_seconds;  // median of the streams
  std::vector<double> decode_rates;         // tokens/s, all streams together
};

// One rank's memory, as far as this machine can see it.
struct BenchRank {
  int rank = 0;
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t resident_bytes = 0;  // 0: a process of another host
};

struct BenchReport {
  std::string model;
  int tp = 1;
  int pp = 1;
  int n_replicas = 1;
  int n_threads = 1;
  int n_generated = 0;
  double start_to_first_token_s = 0.0;  // of the process; a prompt of a few tokens
  std::vector<BenchRow> rows;
  std::vector<BenchRank> ranks;
};

// A table for people; lines ended by \n.
std::string bench_text(const BenchReport& report);
// One JSON object, rates in tokens/s: {"rows":[{"prefill":{"median":..,"min":..,"max":..,
// "runs":[..]}, ..}], ..}.
std::string bench_json(const BenchReport& report);

}  // namespace trireme
