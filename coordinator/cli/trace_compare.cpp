#include "coordinator/cli/trace_compare.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace trireme {
namespace {

// What layouts have in common. `occurrence` counts the times a step computed it (logits are
// computed in batches of rows). Ordered as a step computes: by step, layer, operator.
using Key = std::tuple<uint64_t, int32_t, int32_t, int32_t, int32_t>;

struct Value {
  uint64_t hash = 0;
  int32_t world_rank = 0;
};

TraceDifference difference(const Key& key, int32_t world_rank, char side) {
  const auto& [step, layer, op, occurrence, unit] = key;
  return {step, layer, op, unit, world_rank, side};
}

class Collector {
 public:
  explicit Collector(char side) : side_(side) {}

  void add(const StepResult& result) {
    std::map<std::tuple<int32_t, int32_t, int32_t>, int32_t> occurrences;
    for (const TraceEntry& e : result.trace) {
      const int32_t occurrence = occurrences[{e.layer, e.op, e.unit}]++;
      const Key key{result.step_id, e.layer, e.op, occurrence, e.unit};
      const auto [at, is_new] = values_.try_emplace(key, Value{e.hash, result.world_rank});
      if (is_new || at->second.hash == e.hash) continue;
      note(difference(key, result.world_rank, side_), key);
    }
  }

  void note(const TraceDifference& d, const Key& key) {
    if (first_ && first_key_ <= key) return;
    first_ = d;
    first_key_ = key;
  }

  const std::map<Key, Value>& values() const { return values_; }
  const std::optional<TraceDifference>& first() const { return first_; }

 private:
  char side_;
  std::map<Key, Value> values_;
  std::optional<TraceDifference> first_;
  Key first_key_;
};

Collector collect(const std::vector<StepResult>& results, char side) {
  std::vector<const StepResult*> ordered;
  for (const StepResult& r : results) ordered.push_back(&r);
  std::stable_sort(ordered.begin(), ordered.end(), [](const StepResult* x, const StepResult* y) {
    return std::tie(x->step_id, x->world_rank) < std::tie(y->step_id, y->world_rank);
  });
  Collector collector(side);
  for (const StepResult* r : ordered) collector.add(*r);
  return collector;
}

}  // namespace

std::optional<TraceDifference> compare_traces(const std::vector<StepResult>& a,
                                              const std::vector<StepResult>& b) {
  const Collector left = collect(a, 'a');
  if (left.first()) return left.first();
  Collector right = collect(b, 'b');
  for (const auto& [key, value] : right.values()) {
    const auto other = left.values().find(key);
    if (other != left.values().end() && other->second.hash == value.hash) continue;
    right.note(difference(key, value.world_rank, 'b'), key);
    break;
  }
  for (const auto& [key, value] : left.values()) {
    if (right.values().count(key) != 0) continue;
    right.note(difference(key, value.world_rank, 'a'), key);
    break;
  }
  return right.first();
}

}  // namespace trireme
