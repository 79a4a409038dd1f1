#include "model/kv_pool.h"

#include <sys/mman.h>

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

}  // namespace

DType KvPool::default_dtype(WeightFormat format) {
  return format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
}

uint64_t KvPool::block_bytes(const ModelConfig& config, const ShardPlan& shard, DType dtype) {
  const BlockBytes side = one_side(config, shard, dtype);
  return 2ULL * static_cast<uint64_t>(shard.layers.size()) * (side.elements + side.scales);
}

KvPool::KvPool(const ModelConfig& config, const ShardPlan& shard, DType dtype, int32_t n_blocks,
               Device device)
    : n_blocks_(n_blocks) {
  TRIREME_CHECK(n_blocks > 0);
  const BlockBytes side = one_side(config, shard, dtype);
  const auto allocate = [&](uint64_t block_bytes) {
    buffers_.emplace_back(block_bytes * static_cast<uint64_t>(n_blocks), device, "the KV cache");
    size_bytes_ += buffers_.back().size_bytes();
    // Large pages, where the system gives them: every head's tile of a block is a page of its own
    // otherwise, and decoding would spend its time on address translation.
    madvise(buffers_.back().data(), buffers_.back().size_bytes(), MADV_HUGEPAGE);
    return buffers_.back().data();
  };
  for (int32_t i = 0; i < shard.layers.size(); ++i) {
    KvLayer layer{.k = allocate(side.elements),
                  .v = allocate(side.elements),
                  .dtype = dtype,
                  .device = device,
                  .n_blocks = n_blocks,
                  .n_kv_heads = shard.kv_heads.size(),
                  .head_dim = config.head_dim};
    if (side.scales > 0) {
      layer.k_scales = static_cast<float*>(allocate(side.scales));
      layer.v_scales = static_cast<float*>(allocate(side.scales));
    }
    layers_.push_back(layer);
  }
}

}  // namespace trireme
