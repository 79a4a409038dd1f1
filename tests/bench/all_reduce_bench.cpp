#include <fmt/format.h>

#include <thread>

#include "comm/shared_region.h"
#include "tests/bench/work.h"

namespace trireme::bench {
namespace {

constexpr int kRanks = 2;

// Two ranks as threads; this one is measured, the other follows until the group is aborted.
void run_all_reduce(benchmark::State& state, const Context& context, int64_t n_bytes) {
  const SharedRegion region = SharedRegion::create({.tp = kRanks});
  const TreePlan plan = make_tree_plan(kLeaves, kRanks);
  const int64_t n_elements = n_bytes / static_cast<int64_t>(sizeof(float));
  std::thread peer([&] {
    const RankComms comms = make_region_comms(region, 1, {});
    const FloatBuffer partials = filled_floats(plan.n_nodes_of(1), n_elements);
    const FloatBuffer out(1, n_elements, {});
    try {
      for (;;) {
        comms.tp->all_reduce_tree({}, plan, partials.rows(plan.n_nodes_of(1)), out.rows(1));
      }
    } catch (const CommError&) {  // aborted below
    }
  });
  const RankComms comms = make_region_comms(region, 0, {});
  const FloatBuffer partials = filled_floats(plan.n_nodes_of(0), n_elements);
  const FloatBuffer out(1, n_elements, {});
  for (auto _ : state) {
    comms.tp->all_reduce_tree({}, plan, partials.rows(plan.n_nodes_of(0)), out.rows(1));
  }
  comms.tp->abort();
  peer.join();
  set_cost(state, context, {.bytes = static_cast<double>(n_bytes)});
}

}  // namespace

void register_all_reduce(const Context& context) {
  for (const int64_t n_bytes : {int64_t{8} << 10, int64_t{128} << 10, int64_t{1} << 20}) {
    benchmark::RegisterBenchmark(
        fmt::format("all_reduce {} ranks {} KiB", kRanks, n_bytes >> 10).c_str(),
        [&](benchmark::State& state, int64_t bytes) { run_all_reduce(state, context, bytes); },
        n_bytes)
        ->UseRealTime();
  }
}

}  // namespace trireme::bench
