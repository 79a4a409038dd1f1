#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/int_math.h"
#include "kernels/thread_pool.h"
#include "tests/kernels/kernel_fixture.h"

namespace trireme::test {

struct AttentionShape {
  int32_t n_heads;
  int32_t n_kv_heads;
  int32_t head_dim;
  int32_t length;  // of the sequence
  int32_t window;
};

constexpr float kTestScale = 0.3F;

// A cache of one type in shuffled blocks for `n_sequences` sequences of one shape. What nobody
// wrote is NaN (int8: NaN scales).
class TestCache {
 public:
  TestCache(const AttentionShape& shape, DType dtype, int32_t n_sequences, std::mt19937& random)
      : shape_(shape), dtype_(dtype) {
    stride_ = round_up(div_ceil(shape.length, kKvBlockTokens), kAttentionChunk / kKvBlockTokens);
    const int32_t n_blocks = stride_ * n_sequences + 3;
    const auto n_rows = static_cast<size_t>(n_blocks * shape.n_kv_heads * kKvBlockTokens);
    k_.assign(n_rows * static_cast<size_t>(shape.head_dim) * dtype_size(dtype), 0xff);  // NaN
    v_ = k_;
    k_scales_.assign(n_rows, NAN);
    v_scales_ = k_scales_;
    table_.resize(static_cast<size_t>(n_blocks));
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), random);
    layer_ = {.k = k_.data(),
              .v = v_.data(),
              .k_scales = dtype == DType::kI8 ? k_scales_.data() : nullptr,
              .v_scales = dtype == DType::kI8 ? v_scales_.data() : nullptr,
              .dtype = dtype,
              .device = {},
              .n_blocks = n_blocks,
              .n_kv_heads = shape.n_kv_heads,
              .head_dim = shape.head_dim};
  }
  TestCache(const TestCache&) = delete;

  const KvLayer& layer() const { return layer_; }
  const std::vector<int32_t>& table() const { return table_; }
  int32_t stride() const { return stride_; }

  // k, v: rows [length, n_kv_heads, head_dim]; writes those of positions [begin, end).
  void store(const KernelTable& kernels, int32_t slot, const std::vector<float>& k,
             const std::vector<float>& v, int32_t begin, int32_t end, ThreadPool* pool = nullptr) {
    std::vector<int32_t> mapping;
    for (int32_t p = begin; p < end; ++p) {
      mapping.push_back(table_[static_cast<size_t>(slot * stride_ + p / 16)] * 16 + p % 16);
    }
    const int64_t n = end - begin;
    const int64_t row = shape_.n_kv_heads * shape_.head_dim;
    const auto rows = [&](const std::vector<float>& x) {
      return make_tensor(const_cast<float*>(x.data()) + begin * row, DType::kF32,
                         {n, shape_.n_kv_heads, shape_.head_dim});
    };
    kernels.store_kv({{}, pool, nullptr}, layer_, rows(k), rows(v),
                     make_tensor(mapping.data(), DType::kI32, {n}));
  }

 private:
  AttentionShape shape_;
  DType dtype_;
  int32_t stride_ = 0;
  std::vector<uint8_t> k_, v_;
  std::vector<float> k_scales_, v_scales_;
  std::vector<int32_t> table_;
  KvLayer layer_;
};

// Tokens of a step: sequence `slot` at `position`, its query in row `row` of the queries.
struct TestToken {
  int32_t slot;
  int32_t position;
  int32_t row;
};

// q [rows, n_heads, head_dim]; the output [tokens, n_heads * head_dim]. n_records: how many
// records the scratch has for chunks that are computed apart; negative: the usual number.
inline std::vector<float> run_attention(const KernelTable& kernels, const AttentionShape& s,
                                        const TestCache& cache, const std::vector<float>& q,
                                        const std::vector<TestToken>& tokens, ThreadPool* pool,
                                        int64_t n_records = -1) {
  const auto width = static_cast<size_t>(s.n_heads * s.head_dim);
  std::vector<float> queries;
  std::vector<int32_t> positions;
  std::vector<int32_t> slots;
  for (const TestToken& token : tokens) {
    const auto at = q.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(token.row) * width);
    queries.insert(queries.end(), at, at + static_cast<std::ptrdiff_t>(width));
    positions.push_back(token.position);
    slots.push_back(token.slot);
  }
  const auto n = static_cast<int64_t>(tokens.size());
  size_t scratch_bytes = attention_scratch_bytes(static_cast<int32_t>(n), s.head_dim);
  if (n_records >= 0) {
    scratch_bytes = static_cast<size_t>(round_up<int64_t>((n + 1) * 4, 64) +
                                        n_records * (round_up<int64_t>(s.head_dim, 16) + 32) * 4);
  }
  std::vector<float> scratch(scratch_bytes / 4 + 16, NAN);
  auto* aligned =
      reinterpret_cast<void*>(round_up<uintptr_t>(reinterpret_cast<uintptr_t>(scratch.data()), 64));
  std::vector<float> out(tokens.size() * width, NAN);
  kernels.paged_attention(
      {{}, pool, nullptr}, make_tensor(out.data(), DType::kF32, {n, static_cast<int64_t>(width)}),
      make_tensor(queries.data(), DType::kF32, {n, s.n_heads, s.head_dim}), cache.layer(),
      {.positions = positions.data(),
       .slots = slots.data(),
       .block_tables = cache.table().data(),
       .block_table_stride = cache.stride(),
       .n_heads = s.n_heads,
       .first_head = 0,
       .first_kv_head = 0,
       .heads_per_kv = s.n_heads / s.n_kv_heads,
       .window = s.window,
       .scale = kTestScale,
       .scratch = aligned,
       .scratch_bytes = scratch_bytes});
  return out;
}

// Element d of head h at position t, in double precision. k and v as the cache holds them.
inline double reference_attention(const AttentionShape& s, const std::vector<float>& q,
                                  const std::vector<float>& k, const std::vector<float>& v,
                                  int32_t t, int32_t h, int32_t d) {
  const int32_t g = h / (s.n_heads / s.n_kv_heads);
  const int32_t from = s.window > 0 ? std::max(0, t - s.window + 1) : 0;
  const auto at = [&](int32_t p, int32_t i) {
    return static_cast<size_t>((p * s.n_kv_heads + g) * s.head_dim + i);
  };
  std::vector<double> scores;
  for (int32_t p = from; p <= t; ++p) {
    double score = 0;
    for (int32_t i = 0; i < s.head_dim; ++i) {
      score += static_cast<double>(q[static_cast<size_t>((t * s.n_heads + h) * s.head_dim + i)]) *
               static_cast<double>(k[at(p, i)]);
    }
    scores.push_back(score * static_cast<double>(kTestScale));
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  double out = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double e = std::exp(scores[i] - max);
    sum += e;
    out += e * static_cast<double>(v[at(from + static_cast<int32_t>(i), d)]);
  }
  return out / sum;
}

// What the cache holds of rows of head_dim floats.
inline std::vector<float> as_cached(std::vector<float> x, int32_t head_dim, DType dtype) {
  if (dtype == DType::kF32) return x;
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(head_dim)) {
    float largest = 0;
    for (int32_t d = 0; d < head_dim; ++d) {
      largest = std::max(largest, std::fabs(x[row + static_cast<size_t>(d)]));
    }
    for (int32_t d = 0; d < head_dim; ++d) {
      float& value = x[row + static_cast<size_t>(d)];
      value = dtype == DType::kBF16 ? to_float(to_bf16(value))
                                    : std::nearbyint(value * (127.0F / largest)) * largest / 127.0F;
    }
  }
  return x;
}

}  // namespace trireme::test
