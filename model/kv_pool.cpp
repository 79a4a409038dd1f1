#include "model/kv_pool.h"

#include <sys/mman.h>

#include <cstddef>
#include <utility>

#include "kernels/int_math.h"

namespace trireme {
namespace {

// Bytes of the keys, or the values, of one block of one layer.
struct BlockBytes {
  uint64_t elements;
  uint64_t scales;
};

BlockBytes one_side(const ModelConfig& config, const ShardPlan& shard, DType dtype) {
  const uint64_t n_rows = static_cast<uint64_t>(shard.kv_heads.size()) * kKvBlockTokens;
  return {.elements = n_rows * static_cast<uint64_t>(config.head_dim) * dtype_size(dtype),
          .scales = dtype == DType::kI8 ? n_rows * sizeof(float) : 0};
}

// Of one array of all blocks, in whole pages.
uint64_t array_bytes(uint64_t block_bytes, int32_t n_blocks) {
  return round_up<uint64_t>(block_bytes * static_cast<uint64_t>(n_blocks), 4096);
}

}  // namespace

DType KvPool::default_dtype(WeightFormat format) {
  return format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
}

uint64_t KvPool::block_bytes(const ModelConfig& config, const ShardPlan& shard, DType dtype) {
  const BlockBytes side = one_side(config, shard, dtype);
  return 2ULL * static_cast<uint64_t>(shard.layers.size()) * (side.elements + side.scales);
}

uint64_t KvPool::pool_bytes(const ModelConfig& config, const ShardPlan& shard, DType dtype,
                            int32_t n_blocks) {
  TRIREME_CHECK(n_blocks > 0);
  const BlockBytes side = one_side(config, shard, dtype);
  const uint64_t of_a_side =
      array_bytes(side.elements, n_blocks) + array_bytes(side.scales, n_blocks);
  return 2 * static_cast<uint64_t>(shard.layers.size()) * of_a_side;
}

KvPool::KvPool(const ModelConfig& config, const ShardPlan& shard, DType dtype, int32_t n_blocks,
               Device device, KvFile file)
    : memory_(pool_bytes(config, shard, dtype, n_blocks), device, "the KV cache", file.fd,
              file.offset),
      n_blocks_(n_blocks) {
  // Large pages, where the system gives them: every head's tile of a block is a page of its own
  // otherwise, and decoding would spend its time on address translation.
  madvise(memory_.data(), memory_.size_bytes(), MADV_HUGEPAGE);
  const BlockBytes side = one_side(config, shard, dtype);
  auto* next = static_cast<std::byte*>(memory_.data());
  const auto take = [&](uint64_t block_bytes) {
    return std::exchange(next, next + array_bytes(block_bytes, n_blocks));
  };
  for (int32_t i = 0; i < shard.layers.size(); ++i) {
    KvLayer layer{.k = take(side.elements),
                  .v = take(side.elements),
                  .dtype = dtype,
                  .device = device,
                  .n_blocks = n_blocks,
                  .n_kv_heads = shard.kv_heads.size(),
                  .head_dim = config.head_dim};
    if (side.scales > 0) {
      layer.k_scales = reinterpret_cast<float*>(take(side.scales));
      layer.v_scales = reinterpret_cast<float*>(take(side.scales));
    }
    layers_.push_back(layer);
  }
}

}  // namespace trireme
