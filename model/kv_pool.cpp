#include "model/kv_pool.h"

namespace trireme {

uint64_t KvPool::block_bytes(const ModelConfig& config, const ShardPlan& shard, DType dtype) {
  return 2ULL * static_cast<uint64_t>(shard.layers.size()) *
         static_cast<uint64_t>(shard.kv_heads.size()) * kKvBlockTokens *
         static_cast<uint64_t>(config.head_dim) * dtype_size(dtype);
}

KvPool::KvPool(const ModelConfig& config, const ShardPlan& shard, DType dtype, int32_t n_blocks,
               Device device)
    : n_blocks_(n_blocks) {
  TRIREME_CHECK(n_blocks > 0);
  const size_t bytes = static_cast<size_t>(n_blocks) * static_cast<size_t>(shard.kv_heads.size()) *
                       kKvBlockTokens * static_cast<size_t>(config.head_dim) * dtype_size(dtype);
  for (int32_t i = 0; i < shard.layers.size(); ++i) {
    buffers_.emplace_back(bytes, device, "the KV cache");
    buffers_.emplace_back(bytes, device, "the KV cache");
    layers_.push_back({.k = buffers_[buffers_.size() - 2].data(),
                       .v = buffers_.back().data(),
                       .dtype = dtype,
                       .device = device,
                       .n_blocks = n_blocks,
                       .n_kv_heads = shard.kv_heads.size(),
                       .head_dim = config.head_dim});
    size_bytes_ += 2 * bytes;
  }
}

}  // namespace trireme
