#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/thread_pool.h"
#include "tests/kernels/kernel_fixture.h"

namespace trireme::test {
namespace {

class AttentionTest : public KernelTest {
 protected:
  struct Shape {
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t length;
    int32_t window;
  };

  // One sequence's keys and values in shuffled blocks, with NaN wherever nothing was written.
  struct Cache {
    std::vector<float> k_f32, v_f32;
    std::vector<BF16> k_bf16, v_bf16;
    std::vector<int32_t> table;
    KvLayer layer;
  };

  Cache make_cache(const Shape& s, DType dtype) {
    Cache cache;
    const int32_t n_blocks = (s.length + 15) / 16 + 3;
    const auto size = static_cast<size_t>(n_blocks * s.n_kv_heads * 16 * s.head_dim);
    cache.k_f32.assign(size, NAN);
    cache.v_f32.assign(size, NAN);
    cache.k_bf16.assign(size, to_bf16(NAN));
    cache.v_bf16.assign(size, to_bf16(NAN));
    cache.table.resize(static_cast<size_t>(n_blocks));
    std::iota(cache.table.begin(), cache.table.end(), 0);
    std::shuffle(cache.table.begin(), cache.table.end(), random_);
    cache.table.resize((cache.table.size() + 7) / 8 * 8, 0);
    cache.layer = {.k = dtype == DType::kF32 ? static_cast<void*>(cache.k_f32.data())
                                             : static_cast<void*>(cache.k_bf16.data()),
                   .v = dtype == DType::kF32 ? static_cast<void*>(cache.v_f32.data())
                                             : static_cast<void*>(cache.v_bf16.data()),
                   .dtype = dtype,
                   .device = {},
                   .n_blocks = n_blocks,
                   .n_kv_heads = s.n_kv_heads,
                   .head_dim = s.head_dim};
    return cache;
  }

  void store(const Cache& cache, const Shape& s, std::vector<float>& k, std::vector<float>& v,
             int32_t begin, int32_t end) {
    std::vector<int32_t> mapping;
    for (int32_t p = begin; p < end; ++p) {
      mapping.push_back(cache.table[static_cast<size_t>(p / 16)] * 16 + p % 16);
    }
    const int64_t n = end - begin;
    const int64_t row = s.n_kv_heads * s.head_dim;
    kernels().store_kv(
        {}, cache.layer,
        make_tensor(k.data() + begin * row, DType::kF32, {n, s.n_kv_heads, s.head_dim}),
        make_tensor(v.data() + begin * row, DType::kF32, {n, s.n_kv_heads, s.head_dim}),
        make_tensor(mapping.data(), DType::kI32, {n}));
  }

  std::vector<float> attend(const Cache& cache, const Shape& s, std::vector<float>& q,
                            int32_t begin, int32_t end, ThreadPool* pool = nullptr) {
    const int64_t n = end - begin;
    const int64_t width = s.n_heads * s.head_dim;
    std::vector<int32_t> positions(static_cast<size_t>(n));
    std::iota(positions.begin(), positions.end(), begin);
    const std::vector<int32_t> slots(static_cast<size_t>(n), 0);
    std::vector<float> out(static_cast<size_t>(n * width), NAN);
    kernels().paged_attention(
        {{}, pool, nullptr}, make_tensor(out.data(), DType::kF32, {n, width}),
        make_tensor(q.data() + begin * width, DType::kF32, {n, s.n_heads, s.head_dim}), cache.layer,
        {.positions = positions.data(),
         .slots = slots.data(),
         .block_tables = cache.table.data(),
         .block_table_stride = static_cast<int32_t>(cache.table.size()),
         .n_heads = s.n_heads,
         .first_head = 0,
         .first_kv_head = 0,
         .heads_per_kv = s.n_heads / s.n_kv_heads,
         .window = s.window,
         .scale = 0.3F});
    return out;
  }
};

double reference_value(const std::vector<float>& q, const std::vector<float>& k,
                       const std::vector<float>& v, int32_t t, int32_t h, int32_t d, int32_t heads,
                       int32_t kv_heads, int32_t dim, int32_t window) {
  const int32_t g = h / (heads / kv_heads);
  const int32_t from = window > 0 ? std::max(0, t - window + 1) : 0;
  std::vector<double> w;
  double max = -1e30;
  for (int32_t p = from; p <= t; ++p) {
    double s = 0;
    for (int32_t i = 0; i < dim; ++i) {
      s += static_cast<double>(q[static_cast<size_t>((t * heads + h) * dim + i)]) *
           static_cast<double>(k[static_cast<size_t>((p * kv_heads + g) * dim + i)]);
    }
    w.push_back(s * 0.3);
    max = std::max(max, w.back());
  }
  double sum = 0;
  double out = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double e = std::exp(w[i] - max);
    sum += e;
    out += e *
           static_cast<double>(
               v[static_cast<size_t>(((from + static_cast<int32_t>(i)) * kv_heads + g) * dim + d)]);
  }
  return out / sum;
}

TEST_P(AttentionTest, MatchesReferenceAndIgnoresHowTheSequenceWasCut) {
  ThreadPool pool(2);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Shape s : {Shape{4, 2, 8, 37, 0},
                          {3, 1, 32, 300, 0},
                          {6, 3, 24, 150, 16},
                          {2, 2, 64, 290, 140},
                          {12, 1, 6, 20, 0}}) {
      const auto kv_size = static_cast<size_t>(s.length * s.n_kv_heads * s.head_dim);
      auto q = random_floats(static_cast<size_t>(s.length * s.n_heads * s.head_dim));
      auto k = random_bf16_floats(kv_size);
      auto v = random_bf16_floats(kv_size);
      const Cache cache = make_cache(s, dtype);
      store(cache, s, k, v, 0, s.length);
      const auto whole = attend(cache, s, q, 0, s.length, &pool);
      for (int32_t t = 0; t < s.length; t += 7) {
        for (int32_t h = 0; h < s.n_heads; ++h) {
          for (int32_t d = 0; d < s.head_dim; d += 5) {
            ASSERT_NEAR(
                whole[static_cast<size_t>((t * s.n_heads + h) * s.head_dim + d)],
                reference_value(q, k, v, t, h, d, s.n_heads, s.n_kv_heads, s.head_dim, s.window),
                2e-5)
                << "token " << t << " head " << h;
          }
        }
      }
      // In chunks, with the cache holding nothing but what came before.
      const Cache fresh = make_cache(s, dtype);
      std::vector<float> pieces;
      for (int32_t begin = 0; begin < s.length;) {
        const int32_t end = std::min(s.length, begin + 1 + static_cast<int32_t>(random_() % 40));
        store(fresh, s, k, v, begin, end);
        const auto part = attend(fresh, s, q, begin, end);
        pieces.insert(pieces.end(), part.begin(), part.end());
        begin = end;
      }
      ASSERT_EQ(0, std::memcmp(pieces.data(), whole.data(), whole.size() * sizeof(float)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, testing::ValuesIn(runnable_kernels()), kernels_name);

}  // namespace
}  // namespace trireme::test
