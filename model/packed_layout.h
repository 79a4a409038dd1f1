#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/weight.h"
#include "model/arch_spec.h"
#include "model/packed_encodings.h"
#include "model/partition.h"

namespace trireme {

constexpr uint64_t kPackedAlignment = 64;  // of every block and bias

// One block of the packed file: where it lies, and which part of its tensor it is.
struct PackedBlock {
  uint64_t offset = 0;       // from the start of the data
  uint64_t size_bytes = 0;   // without the bias
  uint64_t bias_offset = 0;  // of float32 [n_padded], right behind the block; 0: none
  uint64_t end = 0;          // behind block and bias; the checksum covers [offset, end)
  int32_t n = 0;
  int32_t k = 0;
  int32_t n_begin = 0;  // its columns and inputs in the whole tensor
  int32_t k_begin = 0;
};

struct PackedTensor {
  WeightSpec spec;
  WeightEncoding encoding;  // of a linear weight
  std::vector<PackedBlock> blocks;
};

// Where everything lies in the packed file of a model: a function of its config and encodings
// alone. Order: embedding; per layer its vectors, then per attention leaf q, the K and V of the KV
// heads that begin in it, and o, then per MLP leaf gate, up and down; final norm; lm_head. So what
// a rank owns of a layer is contiguous but for the vectors.
struct PackedLayout {
  struct BlockId {
    int32_t tensor = 0;
    int32_t block = 0;
  };
  std::vector<PackedTensor> tensors;
  std::vector<BlockId> order;  // of the blocks in the file
  uint64_t data_bytes = 0;

  const PackedBlock& at(BlockId id) const {
    return tensors[static_cast<size_t>(id.tensor)].blocks[static_cast<size_t>(id.block)];
  }
};

// `config` is within its limits and of a known architecture.
PackedLayout plan_packed_layout(const ModelConfig& config, const PackedEncodings& encodings);

// How many blocks that layout has, without the memory that planning it takes.
int64_t n_packed_blocks(const ModelConfig& config);

// The blocks of a tensor that a shard holds; empty where the tensor is another stage's.
IndexRange shard_blocks(const WeightSpec& spec, const ShardPlan& shard, bool tied);

// Bytes of a shard's blocks and biases: the share that map_stage_weights() maps. `tied`: the last
// stage needs the embedding as its lm_head.
uint64_t shard_weight_bytes(const PackedLayout& layout, const ShardPlan& shard, bool tied);

// Which part of a tensor each of its blocks is, in block order.
struct BlockPart {
  IndexRange columns;  // of n
  IndexRange inputs;   // of k
  int32_t leaf = 0;    // that it is laid beside in the file
};
std::vector<BlockPart> block_parts(const WeightSpec& spec, const ModelConfig& config,
                                   const ModelCuts& cuts);

}  // namespace trireme
