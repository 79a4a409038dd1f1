#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/layout.h"
#include "kernels/result.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"
#include "model/model_config.h"
#include "model/partition.h"

namespace trireme {

// What the memory of a shard plan is reckoned for.
struct InspectOptions {
  Layout layout = {};
  WeightFormat format = WeightFormat::kBF16;
  DType kv_dtype = DType::kBF16;
  int32_t context_length = 0;     // tokens of one sequence; 0: the model's default
  int32_t n_sequences = 1;        // that the KV cache holds at that length
  int32_t max_step_tokens = 512;  // in one step
};

struct RankReport {
  int32_t world_rank = 0;
  ShardPlan shard;
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t workspace_bytes = 0;
  uint64_t total_bytes() const { return weight_bytes + kv_bytes + workspace_bytes; }
};

// Everything that `trireme inspect` tells of a model folder and a layout.
struct InspectReport {
  std::string model;
  InspectOptions options;  // context_length filled in
  ModelConfig config;
  ModelCuts cuts;
  uint64_t n_source_tensors = 0;
  uint64_t source_bytes = 0;
  uint64_t n_parameters = 0;  // a tied embedding counts once
  uint64_t packed_bytes = 0;  // of the packed file in options.format
  std::vector<RankReport> ranks;
};

// Reads and checks the config and tensors (not their values) of what resolve_model() gave; a packed
// model's own format stands for that of the options. Throws EnvironmentError for what is wrong with
// the files; an Error for options that do not fit the model.
Result<InspectReport> inspect_model(const std::filesystem::path& model,
                                    const InspectOptions& options);

std::string inspect_text(const InspectReport& report);  // for a terminal, lines ended by \n
std::string inspect_json(const InspectReport& report);  // one JSON object, indented

// The operators of rank 0's layers in a step of n_tokens, before and after fusion, with their FLOPs
// and bytes.
std::string graph_text(const InspectReport& report, int32_t n_tokens);
std::string graph_json(const InspectReport& report, int32_t n_tokens);

}  // namespace trireme
