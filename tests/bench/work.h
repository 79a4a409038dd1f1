#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/kernel_table.h"
#include "kernels/thread_pool.h"
#include "model/stage_workspace.h"
#include "tests/bench/peaks.h"

namespace trireme::bench {

// A weight format, with the instruction that its products need. A new format is a line here.
struct FormatRow {
  WeightEncoding encoding;
  const char* name;
  Peak Peaks::*arithmetic;
};
inline const FormatRow kFormats[] = {
    {default_encoding(WeightFormat::kF32), "float32", &Peaks::f32},
    {default_encoding(WeightFormat::kF16), "float16", &Peaks::f32},
    {default_encoding(WeightFormat::kBF16), "bfloat16", &Peaks::bf16},
    {default_encoding(WeightFormat::kI8), "int8", &Peaks::int8},
    {default_encoding(WeightFormat::kI4), "int4", &Peaks::int8},
};

// What every benchmark works with.
struct Context {
  const KernelTable* kernels = nullptr;
  int n_threads = 1;
  ThreadPool* pool = nullptr;
  Peaks peaks;
  Stream stream() const { return {{}, pool, nullptr}; }
};

// What one iteration has to do at least; the report compares with the peaks.
struct Cost {
  double bytes = 0.0;       // that come from memory
  double operations = 0.0;  // a multiply and an add are two
  double arithmetic = 0.0;  // operations per second that the processor can do; 0: unknown
};

// Adds the counters that TableReporter reads.
inline void set_cost(benchmark::State& state, const Context& context, const Cost& cost) {
  const double memory_s = cost.bytes / context.peaks.dram.of(context.n_threads);
  const double compute_s = cost.arithmetic > 0 ? cost.operations / cost.arithmetic : 0.0;
  state.counters["bytes"] = cost.bytes;
  state.counters["operations"] = cost.operations;
  state.counters["bound_s"] = std::max(memory_s, compute_s);
}

// The Llama shape of 1.24 B parameters.
constexpr int32_t kHidden = 2048;
constexpr int32_t kIntermediate = 8192;
constexpr int32_t kHeads = 32;
constexpr int32_t kKvHeads = 8;
constexpr int32_t kHeadDim = 64;
constexpr int32_t kVocab = 128256;
constexpr int32_t kLeaves = 16;

// Bytes that are small positive numbers in every format: 0.01 to 0.8 as float32 and bfloat16, 1 to
// 2 as a half, 60 to 63 as int8. No denormals, no infinities.
inline void fill_with_numbers(void* data, size_t n_bytes) {
  auto* bytes = static_cast<uint8_t*>(data);
  uint32_t state = 1;
  for (size_t i = 0; i < n_bytes; ++i) {
    state = state * 1664525U + 1013904223U;
    bytes[i] = static_cast<uint8_t>(0x3C + (state >> 30));
  }
}

// Rows of numbers.
inline FloatBuffer filled_floats(int64_t n_rows, int64_t n_columns) {
  FloatBuffer floats(n_rows, n_columns, {});
  fill_with_numbers(floats.data(), floats.size_bytes());
  return floats;
}

// A GEMM input of numbers for weights of a format. `widths`: columns of each span.
inline GemmInputBuffer filled_input(const Context& context, int64_t n_rows,
                                    const std::vector<int32_t>& widths, WeightFormat format) {
  GemmInputBuffer input(n_rows, widths, gemm_input_dtype(format), {});
  const int64_t k = input.rows(n_rows).values.dim(1);
  context.kernels->to_gemm_input(context.stream(), input.rows(n_rows),
                                 filled_floats(n_rows, k).rows(n_rows));
  return input;
}

void register_linear(const Context& context);
void register_attention(const Context& context);
void register_elementwise(const Context& context);
void register_all_reduce(const Context& context);

}  // namespace trireme::bench
