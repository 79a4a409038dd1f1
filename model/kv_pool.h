#pragma once

#include <cstdint>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/kernel_table.h"
#include "model/partition.h"

namespace trireme {

// Where a pool's memory is: in a file that outlives the process, or (-1) its own.
struct KvFile {
  int fd = -1;
  uint64_t offset = 0;
};

// A rank's KV cache: one pool of fixed blocks per layer of its stage, allocated once. dtype
// float32, bf16 or int8.
class KvPool {
 public:
  KvPool(const ModelConfig& config, const ShardPlan& shard, DType dtype, int32_t n_blocks,
         Device device, KvFile file = {});

  const KvLayer& layer(int32_t local_layer) const {
    return layers_[static_cast<size_t>(local_layer)];
  }
  int32_t n_blocks() const { return n_blocks_; }
  uint64_t size_bytes() const { return memory_.size_bytes(); }

  // The type that goes with a weight format unless another is asked for: the GEMM inputs'.
  static DType default_dtype(WeightFormat format);
  // Bytes of a pool, padding included.
  static uint64_t pool_bytes(const ModelConfig& config, const ShardPlan& shard, DType dtype,
                             int32_t n_blocks);
  // Bytes of one block over all of the shard's layers, scales included.
  static uint64_t block_bytes(const ModelConfig& config, const ShardPlan& shard, DType dtype);

 private:
  Buffer memory_;
  std::vector<KvLayer> layers_;
  int32_t n_blocks_ = 0;
};

}  // namespace trireme
