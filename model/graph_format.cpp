#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "model/inspect_report.h"
#include "model/op_cost.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

StepShape step_shape(const InspectReport& report, int32_t n_tokens) {
  // Positions of the step's last tokens: decoding reads the context, a prompt half of itself.
  const int32_t context = n_tokens == 1 ? report.options.context_length : n_tokens / 2;
  return {.config = &report.config,
          .shard = &report.ranks.front().shard,
          .encoding = default_encoding(report.options.format),
          .kv_dtype = report.options.kv_dtype,
          .n_tokens = n_tokens,
          .context = context};
}

std::vector<GraphLine> lines_of(const InspectReport& report, const StepShape& shape, bool fuse) {
  return graph_lines(make_stage_graph({.n_layers = shape.shard->layers.size(),
                                       .qk_norm = report.config.qk_norm,
                                       .fuse = fuse,
                                       .format = report.options.format}),
                     shape);
}

std::string table(const std::vector<GraphLine>& lines, const char* title) {
  std::string out =
      fmt::format("{:<36} {:>6} {:>12} {:>12}\n", title, "calls", "MFLOP", "MB moved");
  OpCost total;
  int32_t n_calls = 0;
  for (const GraphLine& line : lines) {
    out += fmt::format("  {:<34} {:>6} {:>12.3f} {:>12.3f}\n", op_name(line.kind), line.n_calls,
                       line.cost.flops / 1e6, line.cost.bytes / 1e6);
    total = total + line.cost;
    n_calls += line.n_calls;
  }
  return out + fmt::format("  {:<34} {:>6} {:>12.3f} {:>12.3f}\n", "all", n_calls,
                           total.flops / 1e6, total.bytes / 1e6);
}

Json to_json(const std::vector<GraphLine>& lines) {
  Json out = Json::array();
  for (const GraphLine& line : lines) {
    out.push_back({{"operator", op_name(line.kind)},
                   {"calls", line.n_calls},
                   {"flops", line.cost.flops},
                   {"bytes", line.cost.bytes}});
  }
  return out;
}

}  // namespace

std::string graph_text(const InspectReport& report, int32_t n_tokens) {
  const StepShape shape = step_shape(report, n_tokens);
  return fmt::format(
             "operators of rank 0's layers, a step of {} token{} that read{} {} cached positions\n",
             n_tokens, n_tokens == 1 ? "" : "s", n_tokens == 1 ? "s" : "", shape.context) +
         table(lines_of(report, shape, false), "before fusion") +
         table(lines_of(report, shape, true), "after fusion");
}

std::string graph_json(const InspectReport& report, int32_t n_tokens) {
  const StepShape shape = step_shape(report, n_tokens);
  const Json json = {{"tokens", n_tokens},
                     {"cached_positions", shape.context},
                     {"before_fusion", to_json(lines_of(report, shape, false))},
                     {"after_fusion", to_json(lines_of(report, shape, true))}};
  return json.dump(2) + "\n";
}

}  // namespace trireme
