#include "coordinator/cli/bench_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "coordinator/cli/progress.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

std::string cell(const std::vector<double>& runs, double scale = 1.0) {
  const Spread spread = spread_of(runs);
  if (runs.size() == 1) return fmt::format("{:.1f}", spread.median * scale);
  return fmt::format("{:.1f} ({:.1f}-{:.1f})", spread.median * scale, spread.min * scale,
                     spread.max * scale);
}

Json spread_json(const std::vector<double>& runs) {
  const Spread spread = spread_of(runs);
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}, {"runs", runs}};
}

}  // namespace

std::string bench_text(const BenchReport& report) {
  std::string out = fmt::format("{:>6} {:>7} {:>7}  {:<22} {:<24} {}\n", "prompt", "streams",
                                "context", "prefill tokens/s", "first token ms", "decode tokens/s");
  for (const BenchRow& row : report.rows) {
    out += fmt::format("{:>6} {:>7} {:>7}  {:<22} {:<24} {}\n", row.n_prompt_tokens, row.n_streams,
                       row.context, cell(row.prefill_rates), cell(row.first_token_seconds, 1000.0),
                       cell(row.decode_rates));
  }
  out += fmt::format("process start to first token: {:.2f} s\n", report.start_to_first_token_s);
  for (const BenchRank& rank : report.ranks) {
    out += fmt::format("rank {}: weights {}, KV cache {}", rank.rank,
                       human_bytes(rank.weight_bytes), human_bytes(rank.kv_bytes));
    if (rank.resident_bytes > 0) {
      out += fmt::format(", resident {}", human_bytes(rank.resident_bytes));
    }
    out += "\n";
  }
  return out;
}

std::string bench_json(const BenchReport& report) {
  Json rows = Json::array();
  for (const BenchRow& row : report.rows) {
    rows.push_back({{"prompt", row.n_prompt_tokens},
                    {"streams", row.n_streams},
                    {"context", row.context},
                    {"prefill", spread_json(row.prefill_rates)},
                    {"first_token_s", spread_json(row.first_token_seconds)},
                    {"decode", spread_json(row.decode_rates)}});
  }
  Json ranks = Json::array();
  for (const BenchRank& rank : report.ranks) {
    ranks.push_back({{"rank", rank.rank},
                     {"weight_bytes", rank.weight_bytes},
                     {"kv_bytes", rank.kv_bytes},
                     {"resident_bytes", rank.resident_bytes}});
  }
  const Json json = {{"model", report.model},
                     {"tp", report.tp},
                     {"pp", report.pp},
                     {"replicas", report.n_replicas},
                     {"threads", report.n_threads},
                     {"generated", report.n_generated},
                     {"start_to_first_token_s", report.start_to_first_token_s},
                     {"rows", rows},
                     {"ranks", ranks}};
  return json.dump(2) + "\n";
}

}  // namespace trireme
