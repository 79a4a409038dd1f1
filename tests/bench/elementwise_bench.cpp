#include <fmt/format.h>

#include "tests/bench/work.h"

namespace trireme::bench {
namespace {

// What stands between two projections: add, norm, and the next one's input.
void run_add_norm_input(benchmark::State& state, const Context& context, const FormatRow& format,
                        int64_t n_rows) {
  const GemmInputBuffer out(n_rows, {kHidden}, gemm_input_dtype(format.encoding.format), {});
  const FloatBuffer x = filled_floats(n_rows, kHidden);
  const FloatBuffer y(n_rows, kHidden, {});  // zeros: x stays what it is
  const FloatBuffer weight = filled_floats(1, kHidden);
  for (auto _ : state) {
    context.kernels->add_rms_norm_input(context.stream(), out.rows(n_rows), x.rows(n_rows),
                                        y.rows(n_rows), nullptr, weight.data(), 1e-5F);
  }
  set_cost(state, context,
           {.bytes = static_cast<double>(2 * x.size_bytes() + y.size_bytes() + out.size_bytes())});
}

void run_silu_mul(benchmark::State& state, const Context& context, int64_t n_rows) {
  const FloatBuffer out(n_rows, kIntermediate, {});
  const FloatBuffer gate = filled_floats(n_rows, kIntermediate);
  const FloatBuffer up = filled_floats(n_rows, kIntermediate);
  for (auto _ : state) {
    context.kernels->silu_mul(context.stream(), out.rows(n_rows), gate.rows(n_rows),
                              up.rows(n_rows));
  }
  set_cost(state, context, {.bytes = 3.0 * static_cast<double>(out.size_bytes())});
}

}  // namespace

// The bound is reading and writing in memory; small ones stay in a cache and may pass it.
void register_elementwise(const Context& context) {
  for (const int64_t n_rows : {1, 16, 512}) {
    for (const FormatRow& format : kFormats) {
      benchmark::RegisterBenchmark(
          fmt::format("add_rms_norm_input {} {} rows {}", format.name, kHidden, n_rows).c_str(),
          [&](benchmark::State& state, int64_t rows) {
            run_add_norm_input(state, context, format, rows);
          },
          n_rows)
          ->UseRealTime();
    }
    benchmark::RegisterBenchmark(
        fmt::format("silu_mul {} rows {}", kIntermediate, n_rows).c_str(),
        [&](benchmark::State& state, int64_t rows) { run_silu_mul(state, context, rows); }, n_rows)
        ->UseRealTime();
  }
}

}  // namespace trireme::bench
