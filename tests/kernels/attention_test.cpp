#include "tests/kernels/attention_fixture.h"

namespace trireme::test {
namespace {

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kI8};

// Of groups of 1, 3, 4 and 8 query heads, and more than share one pass; windows that begin in
// another chunk than they end in; dimensions that fill no panel of 16.
constexpr AttentionShape kShapes[] = {
    {4, 1, 64, 300, 0},  {8, 1, 128, 150, 0}, {2, 2, 64, 290, 140}, {3, 1, 80, 270, 0},
    {6, 2, 24, 150, 16}, {1, 1, 256, 140, 7}, {12, 1, 6, 20, 0},    {100, 1, 8, 37, 0},
};

class AttentionTest : public KernelTest {
 protected:
  struct Sequence {
    std::vector<float> q, k, v;
  };
  Sequence random_sequence(const AttentionShape& s) {
    const auto kv_size = static_cast<size_t>(s.length * s.n_kv_heads * s.head_dim);
    const float spread = 2.0F / std::sqrt(std::sqrt(static_cast<float>(s.head_dim)));
    return {random_bf16_floats(static_cast<size_t>(s.length * s.n_heads * s.head_dim), spread),
            random_floats(kv_size, spread), random_floats(kv_size)};
  }
  static std::vector<TestToken> tokens_of(int32_t slot, int32_t begin, int32_t end) {
    std::vector<TestToken> tokens;
    for (int32_t p = begin; p < end; ++p) tokens.push_back({slot, p, p});
    return tokens;
  }
  static void expect_same_bytes(const std::vector<float>& a, const std::vector<float>& b,
                                const std::string& where) {
    ASSERT_EQ(a.size(), b.size()) << where;
    EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(float))) << where;
  }
};

std::string name_of(const AttentionShape& s, DType dtype) {
  return std::string(dtype_name(dtype)) + ", heads " + std::to_string(s.n_heads) + "/" +
         std::to_string(s.n_kv_heads) + " of " + std::to_string(s.head_dim) + ", window " +
         std::to_string(s.window);
}

TEST_P(AttentionTest, MatchesReference) {
  ThreadPool pool(2);
  for (const DType dtype : kDTypes) {
    // bf16 rounds the weights, too: each to 2^-9 of itself.
    const double tolerance = dtype == DType::kF32 ? 2e-5 : 8e-3;
    for (const AttentionShape& s : kShapes) {
      const Sequence x = random_sequence(s);
      TestCache cache(s, dtype, 1, random_);
      cache.store(kernels(), 0, x.k, x.v, 0, s.length, &pool);
      const auto out = run_attention(kernels(), s, cache, x.q, tokens_of(0, 0, s.length), &pool);
      const auto k = as_cached(x.k, s.head_dim, dtype);
      const auto v = as_cached(x.v, s.head_dim, dtype);
      for (int32_t t = 0; t < s.length; t += 7) {
        for (int32_t h = 0; h < s.n_heads; ++h) {
          for (int32_t d = 0; d < s.head_dim; d += 5) {
            ASSERT_NEAR(out[static_cast<size_t>((t * s.n_heads + h) * s.head_dim + d)],
                        reference_attention(s, x.q, k, v, t, h, d), tolerance)
                << name_of(s, dtype) << ", token " << t << " head " << h;
          }
        }
      }
    }
  }
}

// The cache of the pieces holds nothing but what came before; three threads compute the chunks of
// single tokens apart.
TEST_P(AttentionTest, SameBytesHoweverTheSequenceIsCut) {
  ThreadPool two(2);
  ThreadPool three(3);
  for (const DType dtype : kDTypes) {
    for (const AttentionShape& s : kShapes) {
      const Sequence x = random_sequence(s);
      TestCache cache(s, dtype, 1, random_);
      cache.store(kernels(), 0, x.k, x.v, 0, s.length);
      const auto whole =
          run_attention(kernels(), s, cache, x.q, tokens_of(0, 0, s.length), nullptr);
      expect_same_bytes(whole,
                        run_attention(kernels(), s, cache, x.q, tokens_of(0, 0, s.length), &three),
                        name_of(s, dtype));
      for (const int32_t longest : {1, 9, 60}) {
        TestCache fresh(s, dtype, 1, random_);
        std::vector<float> pieces;
        for (int32_t begin = 0; begin < s.length;) {
          const auto n = 1 + static_cast<int32_t>(random_() % static_cast<uint32_t>(longest));
          const int32_t end = std::min(s.length, begin + n);
          fresh.store(kernels(), 0, x.k, x.v, begin, end, &two);
          const auto part = run_attention(kernels(), s, fresh, x.q, tokens_of(0, begin, end),
                                          begin % 2 == 0 ? &three : &two);
          pieces.insert(pieces.end(), part.begin(), part.end());
          begin = end;
        }
        expect_same_bytes(whole, pieces,
                          name_of(s, dtype) + ", at most " + std::to_string(longest));
      }
    }
  }
}

TEST_P(AttentionTest, SameBytesInEveryBatch) {
  ThreadPool pool(2);
  for (const DType dtype : kDTypes) {
    const AttentionShape s{4, 2, 64, 200, 0};
    std::vector<Sequence> x;
    TestCache cache(s, dtype, 3, random_);
    std::vector<float> expected;
    std::vector<float> queries;
    std::vector<TestToken> batch;
    for (int32_t slot = 0; slot < 3; ++slot) {
      x.push_back(random_sequence(s));
      const Sequence& own = x.back();
      cache.store(kernels(), slot, own.k, own.v, 0, s.length);
      const int32_t begin = 90 + 40 * slot;
      const int32_t end = slot == 1 ? begin + 1 : begin + 17;
      const auto alone =
          run_attention(kernels(), s, cache, own.q, tokens_of(slot, begin, end), nullptr);
      expected.insert(expected.end(), alone.begin(), alone.end());
      queries.insert(queries.end(), own.q.begin(), own.q.end());
      for (int32_t p = begin; p < end; ++p) batch.push_back({slot, p, slot * s.length + p});
    }
    expect_same_bytes(expected, run_attention(kernels(), s, cache, queries, batch, &pool),
                      dtype_name(dtype));
  }
}

// With scratch for few chunks at a time, a context is computed in several waves.
TEST_P(AttentionTest, SameBytesWhateverTheScratch) {
  ThreadPool pool(3);
  for (const DType dtype : kDTypes) {
    for (const AttentionShape& s :
         {AttentionShape{4, 1, 64, 1000, 0}, AttentionShape{6, 2, 128, 900, 333}}) {
      const Sequence x = random_sequence(s);
      TestCache cache(s, dtype, 1, random_);
      cache.store(kernels(), 0, x.k, x.v, 0, s.length);
      // Tokens on both sides of a chunk's end, so that not all rows see all chunks.
      const auto tokens = tokens_of(0, 890, 898);
      const auto whole = run_attention(kernels(), s, cache, x.q, tokens, nullptr);
      for (const int64_t waves : {0, 3, 4, 6, 100}) {
        expect_same_bytes(
            whole, run_attention(kernels(), s, cache, x.q, tokens, &pool, waves * 8 * s.n_heads),
            name_of(s, dtype) + ", records " + std::to_string(waves));
      }
    }
  }
}

// Positions before a window and after a token are not multiplied, whatever lies there.
TEST_P(AttentionTest, WhatIsNotSeenDoesNotMatter) {
  for (const DType dtype : kDTypes) {
    for (const int32_t window : {0, 33, 34, 150}) {
      const AttentionShape s{3, 1, 32, 300, window};
      const Sequence x = random_sequence(s);
      const std::vector<float> nans(x.k.size(), NAN);
      TestCache cache(s, dtype, 1, random_);
      cache.store(kernels(), 0, x.k, x.v, 0, s.length);
      for (const auto& [begin, end] : {std::pair{200, 201}, {201, 202}, {250, 261}}) {
        const auto tokens = tokens_of(0, begin, end);
        const auto clean = run_attention(kernels(), s, cache, x.q, tokens, nullptr);
        for (const float value : clean) ASSERT_TRUE(std::isfinite(value));
        TestCache stale(s, dtype, 1, random_);
        stale.store(kernels(), 0, x.k, x.v, 0, end);
        if (window > 0) stale.store(kernels(), 0, nans, nans, 0, begin - window + 1);
        expect_same_bytes(clean, run_attention(kernels(), s, stale, x.q, tokens, nullptr),
                          name_of(s, dtype));
      }
    }
  }
}

TEST_P(AttentionTest, NotANumberStaysVisibleInTheCache) {
  for (const DType dtype : kDTypes) {
    for (const float bad : {NAN, INFINITY}) {
      const AttentionShape s{2, 2, 16, 20, 0};
      Sequence x = random_sequence(s);
      x.v[static_cast<size_t>(9 * s.n_kv_heads * s.head_dim + 5)] = bad;
      TestCache cache(s, dtype, 1, random_);
      cache.store(kernels(), 0, x.k, x.v, 0, s.length);
      const auto out = run_attention(kernels(), s, cache, x.q, tokens_of(0, 0, s.length), nullptr);
      const auto width = static_cast<size_t>(s.n_heads * s.head_dim);
      EXPECT_TRUE(std::isfinite(out[8 * width + 5])) << dtype_name(dtype);
      EXPECT_FALSE(std::isfinite(out[9 * width + 5])) << dtype_name(dtype);
      EXPECT_FALSE(std::isfinite(out[12 * width + 5])) << dtype_name(dtype);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, testing::ValuesIn(runnable_kernels()), kernels_name);

}  // namespace
}  // namespace trireme::test
