#include "model/kv_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include <gtest/gtest.h>

namespace trireme {
namespace {

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kI8};
constexpr int32_t kBlocks = 3;

ModelConfig small_config() {
  ModelConfig config;
  config.n_heads = 6;
  config.n_kv_heads = 3;
  config.head_dim = 10;
  config.n_layers = 4;
  return config;
}

// The second of two stages, two of the three KV heads.
ShardPlan small_shard() {
  ShardPlan shard;
  shard.layers = {1, 4};
  shard.kv_heads = {1, 3};
  return shard;
}

// Every array of a pool, as the kernels see it.
std::vector<std::span<std::byte>> arrays_of(const KvPool& pool) {
  std::vector<std::span<std::byte>> arrays;
  for (int32_t i = 0; i < small_shard().layers.size(); ++i) {
    const KvLayer& layer = pool.layer(i);
    const size_t rows = static_cast<size_t>(layer.n_blocks * layer.n_kv_heads) * kKvBlockTokens;
    const size_t elements = rows * static_cast<size_t>(layer.head_dim) * dtype_size(layer.dtype);
    for (void* data : {layer.k, layer.v}) {
      arrays.emplace_back(static_cast<std::byte*>(data), elements);
    }
    for (float* data : {layer.k_scales, layer.v_scales}) {
      if (data == nullptr) continue;
      arrays.emplace_back(reinterpret_cast<std::byte*>(data), rows * sizeof(float));
    }
  }
  return arrays;
}

void fill(const KvPool& pool) {
  int number = 0;
  for (const auto array : arrays_of(pool)) std::ranges::fill(array, std::byte(++number));
}

void expect_filled(const KvPool& pool) {
  int number = 0;
  for (const auto array : arrays_of(pool)) {
    const std::byte own{static_cast<unsigned char>(++number)};
    EXPECT_TRUE(std::ranges::all_of(array, [own](std::byte b) { return b == own; })) << number;
  }
}

TEST(KvPool, EveryArrayIsItsOwnAndAligned) {
  for (const DType dtype : kDTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    const KvPool pool(small_config(), small_shard(), dtype, kBlocks, {});
    const auto arrays = arrays_of(pool);
    EXPECT_EQ(arrays.size(), dtype == DType::kI8 ? 12U : 6U);
    uint64_t used = 0;
    for (const auto array : arrays) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(array.data()) % 64, 0U);
      used += array.size();
    }
    EXPECT_EQ(used, kBlocks * KvPool::block_bytes(small_config(), small_shard(), dtype));
    EXPECT_EQ(pool.size_bytes(), KvPool::pool_bytes(small_config(), small_shard(), dtype, kBlocks));
    fill(pool);
    expect_filled(pool);
  }
}

TEST(KvPool, InAFileItOutlivesItsOwner) {
  for (const DType dtype : kDTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    constexpr uint64_t kOffset = 4096;
    const uint64_t bytes = KvPool::pool_bytes(small_config(), small_shard(), dtype, kBlocks);
    const int fd = memfd_create("test", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(fd, static_cast<off_t>(kOffset + bytes)), 0);
    const auto open_pool = [&] {
      return KvPool(small_config(), small_shard(), dtype, kBlocks, {}, {fd, kOffset});
    };
    fill(open_pool());
    expect_filled(open_pool());
    std::vector<std::byte> before(kOffset);
    ASSERT_EQ(pread(fd, before.data(), before.size(), 0), static_cast<ssize_t>(before.size()));
    EXPECT_EQ(before, std::vector<std::byte>(kOffset)) << "what lies before the pool is not its";
    close(fd);
  }
}

TEST(KvPoolDeathTest, HasBlocks) {
  EXPECT_DEATH(KvPool::pool_bytes(small_config(), small_shard(), DType::kBF16, 0), "check failed");
}

}  // namespace
}  // namespace trireme
