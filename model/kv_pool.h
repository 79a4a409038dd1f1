#pragma once

#include <cstdint>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/kernel_table.h"
#include "model/partition.h"

namespace trireme {

// A rank's KV cache: one pool of fixed blocks per layer of its stage, allocated once. dtype
// float32, bf16 or int8.
class KvPool {
 public:
  KvPool(const ModelConfig& config, const ShardPlan& shard, DType dtype, int32_t n_blocks,
         Device device);

  const KvLayer& layer(int32_t local_layer) const {
    return layers_[static_cast<size_t>(local_layer)];
  }
  int32_t n_blocks() const { return n_blocks_; }
  uint64_t size_bytes() const { return size_bytes_; }

  // The type that goes with a weight format unless another is asked for: the GEMM inputs'.
  static DType default_dtype(WeightFormat format);
  // Bytes of one block over all of the shard's layers, scales included.
  static uint64_t block_bytes(const ModelConfig& config, const ShardPlan& shard, DType dtype);

 private:
  std::vector<Buffer> buffers_;
  std::vector<KvLayer> layers_;
  int32_t n_blocks_ = 0;
  uint64_t size_bytes_ = 0;
};

}  // namespace trireme
