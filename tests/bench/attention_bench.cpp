#include <fmt/format.h>

#include <numeric>

#include "kernels/int_math.h"
#include "tests/bench/work.h"

namespace trireme::bench {
namespace {

constexpr size_t kColdBytes = size_t{64} << 20;

struct AttentionCase {
  const char* name;
  int32_t n_streams;
  int32_t n_tokens;  // of each stream
  int32_t context;   // positions that the last of them sees
};

constexpr AttentionCase kCases[] = {
    {"decode", 1, 1, 512},    {"decode", 1, 1, 2048},    {"decode", 16, 1, 512},
    {"prefill", 1, 512, 512}, {"prefill", 1, 512, 2048},
};

// Key and value heads that the tokens read, each block once for a stream, whatever the layers.
double kv_bytes(const AttentionCase& c, DType dtype) {
  return 2.0 * c.n_streams * c.context * kKvHeads * kHeadDim *
         static_cast<double>(dtype_size(dtype));
}

// Products of queries with keys, and of weights with values.
double operations(const AttentionCase& c) {
  double positions = 0;
  for (int32_t token = 0; token < c.n_tokens; ++token) positions += c.context - token;
  return 4.0 * positions * c.n_streams * kHeads * kHeadDim;
}

void run_attention(benchmark::State& state, const Context& context, const AttentionCase& c,
                   DType dtype, Peak Peaks::*arithmetic) {
  const int32_t blocks_each = div_ceil(c.context, kKvBlockTokens);
  const auto layer_bytes = static_cast<size_t>(kv_bytes(c, dtype));
  const auto n_layers = static_cast<int32_t>(std::max<size_t>(1, kColdBytes / layer_bytes));
  const int32_t n_blocks = blocks_each * c.n_streams * n_layers;
  const size_t half =
      static_cast<size_t>(n_blocks) * kKvBlockTokens * kKvHeads * kHeadDim * dtype_size(dtype);
  const Buffer k(half, {}, "a benchmark's keys");
  const Buffer v(half, {}, "a benchmark's values");
  fill_with_numbers(k.data(), half);
  fill_with_numbers(v.data(), half);
  // One scale for each token and head.
  const FloatBuffer scales = filled_floats(n_blocks, kKvBlockTokens * kKvHeads);
  const KvLayer layer = {.k = k.data(),
                         .v = v.data(),
                         .k_scales = dtype == DType::kI8 ? scales.data() : nullptr,
                         .v_scales = dtype == DType::kI8 ? scales.data() : nullptr,
                         .dtype = dtype,
                         .device = {},
                         .n_blocks = n_blocks,
                         .n_kv_heads = kKvHeads,
                         .head_dim = kHeadDim};
  const int32_t n_tokens = c.n_streams * c.n_tokens;
  std::vector<int32_t> positions;
  std::vector<int32_t> slots;
  for (int32_t stream = 0; stream < c.n_streams; ++stream) {
    for (int32_t token = 0; token < c.n_tokens; ++token) {
      positions.push_back(c.context - c.n_tokens + token);
      slots.push_back(stream);
    }
  }
  std::vector<int32_t> table(static_cast<size_t>(n_blocks));
  std::iota(table.begin(), table.end(), 0);
  const FloatBuffer q = filled_floats(n_tokens, kHeads * kHeadDim);
  const Tensor queries = make_tensor(q.data(), DType::kF32, {n_tokens, kHeads, kHeadDim});
  const FloatBuffer out(n_tokens, kHeads * kHeadDim, {});
  const Buffer scratch(attention_scratch_bytes(n_tokens, kHeadDim), {}, "attention's scratch");
  int32_t use = 0;
  for (auto _ : state) {
    const int32_t first_block = use++ % n_layers * blocks_each * c.n_streams;
    context.kernels->paged_attention(context.stream(), out.rows(n_tokens), queries, layer,
                                     {.positions = positions.data(),
                                      .slots = slots.data(),
                                      .block_tables = table.data() + first_block,
                                      .block_table_stride = blocks_each,
                                      .n_heads = kHeads,
                                      .first_head = 0,
                                      .first_kv_head = 0,
                                      .heads_per_kv = kHeads / kKvHeads,
                                      .window = 0,
                                      .scale = 0.125F,
                                      .scratch = scratch.data(),
                                      .scratch_bytes = scratch.size_bytes()});
  }
  set_cost(state, context,
           {.bytes = kv_bytes(c, dtype),
            .operations = operations(c),
            .arithmetic = (context.peaks.*arithmetic).of(context.n_threads)});
}

}  // namespace

void register_attention(const Context& context) {
  // A type of the KV cache, its name, and the instruction that bounds it.
  struct KvRow {
    DType dtype;
    const char* name;
    Peak Peaks::*arithmetic;
  };
  static constexpr KvRow kKvRows[] = {{DType::kF32, "float32", &Peaks::f32},
                                      {DType::kBF16, "bfloat16", &Peaks::bf16},
                                      {DType::kI8, "int8", &Peaks::bf16}};
  for (const KvRow& row : kKvRows) {
    for (const AttentionCase& c : kCases) {
      benchmark::RegisterBenchmark(fmt::format("attention {} {} context {} streams {}", row.name,
                                               c.name, c.context, c.n_streams)
                                       .c_str(),
                                   [&](benchmark::State& state) {
                                     run_attention(state, context, c, row.dtype, row.arithmetic);
                                   })
          ->UseRealTime();
    }
  }
}

}  // namespace trireme::bench
