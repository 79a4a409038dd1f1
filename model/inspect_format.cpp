#include <algorithm>
#include <array>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "model/inspect_report.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

std::string bytes_text(uint64_t bytes) {
  constexpr std::array kUnits = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024.0;
  size_t unit = 0;
  for (; value >= 1024.0 && unit + 1 < kUnits.size(); ++unit) value /= 1024.0;
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string count_text(uint64_t count) {
  if (count >= 1'000'000'000)
    return fmt::format("{:.2f} billion", static_cast<double>(count) / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.1f} million", static_cast<double>(count) / 1e6);
  return fmt::format("{}", count);
}

// "3-5", "7", "none": the last one included, as people count.
std::string range_text(IndexRange range) {
  if (range.size() <= 0) return "none";
  if (range.size() == 1) return fmt::format("{}", range.begin);
  return fmt::format("{}-{}", range.begin, range.end - 1);
}

const char* rope_name(RopeConfig::Scaling scaling) {
  switch (scaling) {
    case RopeConfig::Scaling::kNone: return "none";
    case RopeConfig::Scaling::kLinear: return "linear";
    case RopeConfig::Scaling::kDynamic: return "dynamic";
    case RopeConfig::Scaling::kYarn: return "yarn";
    case RopeConfig::Scaling::kLlama3: return "llama3";
  }
  return "";
}

std::string window_text(const ModelConfig& config) {
  const auto n = std::count_if(config.layer_window.begin(), config.layer_window.end(),
                               [](int32_t window) { return window > 0; });
  if (n == 0) return "none";
  const int32_t widest = *std::max_element(config.layer_window.begin(), config.layer_window.end());
  return fmt::format("{} tokens in {} of {} layers", widest, n, config.n_layers);
}

std::string model_text(const InspectReport& r) {
  const ModelConfig& c = r.config;
  std::string out;
  const auto line = [&out](const char* name, const std::string& value) {
    out += fmt::format("{:<18}{}\n", name, value);
  };
  line("model", r.model);
  line("architecture", c.architecture);
  line("parameters", fmt::format("{} ({})", count_text(r.n_parameters), r.n_parameters));
  line("tensors", fmt::format("{}, {}", r.n_source_tensors, bytes_text(r.source_bytes)));
  line("packed",
       fmt::format("{} as {}", bytes_text(r.packed_bytes), weight_format_name(r.options.format)));
  line("layers", fmt::format("{}", c.n_layers));
  line("hidden size", fmt::format("{}, MLP {}", c.hidden_size, c.intermediate_size));
  line("heads", fmt::format("{} of {}, KV {}", c.n_heads, c.head_dim, c.n_kv_heads));
  line("vocabulary", fmt::format("{}{}", c.vocab_size, c.tie_embeddings ? ", tied" : ""));
  line("context", fmt::format("{} tokens, rope theta {}, scaling {}", c.max_position, c.rope.theta,
                              rope_name(c.rope.scaling)));
  line("sliding window", window_text(c));
  line("leaves",
       fmt::format("attention {}, MLP {}", r.cuts.attention.n_leaves, r.cuts.mlp.n_leaves));
  line("vocabulary chunks", fmt::format("{} of {} columns", r.cuts.n_vocab_chunks, kVocabChunk));
  line("largest --tp", fmt::format("{}", r.cuts.max_tp()));
  line("largest --pp", fmt::format("{}", c.n_layers));
  return out;
}

Json range_json(IndexRange range) { return Json::array({range.begin, range.end}); }

Json rank_json(const RankReport& rank) {
  const ShardPlan& s = rank.shard;
  return {{"rank", rank.world_rank},
          {"pp_rank", s.pp_rank},
          {"tp_rank", s.tp_rank},
          {"layers", range_json(s.layers)},
          {"heads", range_json(s.heads)},
          {"kv_heads", range_json(s.kv_heads)},
          {"attention_leaves", range_json(s.attention_leaves)},
          {"mlp_leaves", range_json(s.mlp_leaves)},
          {"mlp_columns", range_json(s.mlp_columns)},
          {"vocab", range_json(s.vocab)},
          {"weight_bytes", rank.weight_bytes},
          {"kv_bytes", rank.kv_bytes},
          {"workspace_bytes", rank.workspace_bytes},
          {"total_bytes", rank.total_bytes()}};
}

}  // namespace

std::string inspect_text(const InspectReport& r) {
  std::string out = model_text(r);
  out += fmt::format(
      "\nshard plan for --tp {} --pp {}: KV for {} x {} tokens in {}, {} tokens in a step\n",
      r.options.layout.tp, r.options.layout.pp, r.options.n_sequences, r.options.context_length,
      dtype_name(r.options.kv_dtype), r.options.max_step_tokens);
  constexpr const char* kRow =
      "{:>4} {:>5} {:>5} {:>8} {:>8} {:>8} {:>12} {:>14} {:>11} {:>11} {:>11} {:>11}\n";
  out += fmt::format(kRow, "rank", "stage", "shard", "layers", "heads", "KV heads", "MLP columns",
                     "vocabulary", "weights", "KV", "workspace", "total");
  for (const RankReport& rank : r.ranks) {
    const ShardPlan& s = rank.shard;
    // Only the ends of the pipeline hold a part of the vocabulary.
    const bool holds_vocab = s.is_first_stage() || s.is_last_stage();
    out += fmt::format(kRow, rank.world_rank, s.pp_rank, s.tp_rank, range_text(s.layers),
                       range_text(s.heads), range_text(s.kv_heads), range_text(s.mlp_columns),
                       holds_vocab ? range_text(s.vocab) : "none", bytes_text(rank.weight_bytes),
                       bytes_text(rank.kv_bytes), bytes_text(rank.workspace_bytes),
                       bytes_text(rank.total_bytes()));
  }
  return out;
}

std::string inspect_json(const InspectReport& r) {
  const ModelConfig& c = r.config;
  Json ranks = Json::array();
  for (const RankReport& rank : r.ranks) ranks.push_back(rank_json(rank));
  const Json json = {{"model", r.model},
                     {"architecture", c.architecture},
                     {"parameters", r.n_parameters},
                     {"tensors", r.n_source_tensors},
                     {"source_bytes", r.source_bytes},
                     {"packed_bytes", r.packed_bytes},
                     {"format", weight_format_name(r.options.format)},
                     {"hidden_size", c.hidden_size},
                     {"intermediate_size", c.intermediate_size},
                     {"n_layers", c.n_layers},
                     {"n_heads", c.n_heads},
                     {"n_kv_heads", c.n_kv_heads},
                     {"head_dim", c.head_dim},
                     {"vocab_size", c.vocab_size},
                     {"max_position", c.max_position},
                     {"tie_embeddings", c.tie_embeddings},
                     {"layer_window", c.layer_window},
                     {"rope_scaling", rope_name(c.rope.scaling)},
                     {"rope_theta", c.rope.theta},
                     {"attention_leaves", r.cuts.attention.n_leaves},
                     {"mlp_leaves", r.cuts.mlp.n_leaves},
                     {"vocab_chunks", r.cuts.n_vocab_chunks},
                     {"largest_tp", r.cuts.max_tp()},
                     {"largest_pp", c.n_layers},
                     {"plan",
                      {{"tp", r.options.layout.tp},
                       {"pp", r.options.layout.pp},
                       {"context_length", r.options.context_length},
                       {"n_sequences", r.options.n_sequences},
                       {"max_step_tokens", r.options.max_step_tokens},
                       {"ranks", std::move(ranks)}}}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace trireme
