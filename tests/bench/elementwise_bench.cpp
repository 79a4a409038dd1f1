#include <fmt/format.h>

#include "tests/bench/work.h"

namespace trireme::bench {
namespace {

void run_rms_norm(benchmark::State& state, const Context& context, const FormatRow& format,
                  int64_t n_rows) {
  const GemmRows out(context, n_rows, kHidden, format.input);
  const Floats x({n_rows, kHidden});
  const Floats weight({kHidden});
  for (auto _ : state) {
    context.kernels->rms_norm(context.stream(), out.tensor, x.tensor, weight.tensor.as<float>(),
                              1e-5F);
  }
  set_cost(state, context,
           {.bytes = static_cast<double>(x.tensor.size_bytes() + out.memory.size_bytes())});
}

void run_silu_mul(benchmark::State& state, const Context& context, const FormatRow& format,
                  int64_t n_rows) {
  const GemmRows out(context, n_rows, kIntermediate, format.input);
  const Floats gate({n_rows, kIntermediate});
  const Floats up({n_rows, kIntermediate});
  for (auto _ : state) {
    context.kernels->silu_mul(context.stream(), out.tensor, gate.tensor, up.tensor);
  }
  set_cost(state, context,
           {.bytes = static_cast<double>(2 * gate.tensor.size_bytes() + out.memory.size_bytes())});
}

}  // namespace

// The bound is reading and writing in memory; small ones stay in a cache and may pass it.
void register_elementwise(const Context& context) {
  for (const FormatRow& format : kFormats) {
    for (const int64_t n_rows : {1, 16, 512}) {
      benchmark::RegisterBenchmark(
          fmt::format("rms_norm {} {} rows {}", format.name, kHidden, n_rows).c_str(),
          [&](benchmark::State& state, int64_t rows) {
            run_rms_norm(state, context, format, rows);
          },
          n_rows)
          ->UseRealTime();
      benchmark::RegisterBenchmark(
          fmt::format("silu_mul {} {} rows {}", format.name, kIntermediate, n_rows).c_str(),
          [&](benchmark::State& state, int64_t rows) {
            run_silu_mul(state, context, format, rows);
          },
          n_rows)
          ->UseRealTime();
    }
  }
}

}  // namespace trireme::bench
