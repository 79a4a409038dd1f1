#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/kernel_table.h"
#include "kernels/thread_pool.h"
#include "tests/bench/peaks.h"

namespace trireme::bench {

// A weight format, with what its kernels take and what bounds them. A new format is a line here.
struct FormatRow {
  WeightFormat format;
  const char* name;
  DType input;              // of a GEMM input
  Peak Peaks::*arithmetic;  // the instruction that its products need
};
constexpr FormatRow kFormats[] = {
    {WeightFormat::kF32, "float32", DType::kF32, &Peaks::f32},
    {WeightFormat::kBF16, "bfloat16", DType::kBF16, &Peaks::bf16},
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

// Bytes that are small positive numbers in every format: 0.01 to 0.8 as float32 and bfloat16, 60 to
// 63 as int8. No denormals, no infinities.
inline void fill_with_numbers(void* data, size_t n_bytes) {
  auto* bytes = static_cast<uint8_t*>(data);
  uint32_t state = 1;
  for (size_t i = 0; i < n_bytes; ++i) {
    state = state * 1664525U + 1013904223U;
    bytes[i] = static_cast<uint8_t>(0x3C + (state >> 30));
  }
}

// Filled memory as a float32 tensor.
struct Floats {
  Buffer memory;
  Tensor tensor;
  Floats(std::initializer_list<int64_t> shape) : memory(bytes(shape), {}, "a benchmark") {
    tensor = make_tensor(memory.data(), DType::kF32, shape);
    fill_with_numbers(memory.data(), memory.size_bytes());
  }
  static size_t bytes(std::initializer_list<int64_t> shape) {
    size_t n = sizeof(float);
    for (const int64_t size : shape) n *= static_cast<size_t>(size);
    return n;
  }
};

// A GEMM input [n_rows, k], written by the kernel that a forward pass uses for it.
struct GemmRows {
  Buffer memory;
  Tensor tensor;
  GemmRows(const Context& context, int64_t n_rows, int64_t k, DType dtype)
      : memory(static_cast<size_t>(n_rows * gemm_row_stride(k)) * dtype_size(dtype), {},
               "a benchmark") {
    tensor = make_tensor(memory.data(), dtype, {n_rows, k});
    tensor.row_stride = gemm_row_stride(k);
    const Floats x({n_rows, k});
    const Floats weight({k});
    context.kernels->rms_norm(context.stream(), tensor, x.tensor, weight.tensor.as<float>(), 1e-5F);
  }
};

void register_linear(const Context& context);
void register_attention(const Context& context);
void register_elementwise(const Context& context);
void register_all_reduce(const Context& context);

}  // namespace trireme::bench
