#include "coordinator/serving/block_manager.h"

#include "kernels/check.h"

namespace trireme {

BlockManager::BlockManager(int32_t n_blocks) : BlockManager(n_blocks, {}) {}

BlockManager::BlockManager(int32_t n_blocks, const std::vector<int32_t>& used) {
  TRIREME_CHECK(n_blocks >= 0);
  ref_counts_.assign(static_cast<size_t>(n_blocks), 0);
  for (const int32_t block : used) {
    TRIREME_CHECK_MSG(ref_count(block) == 0, "a KV block belongs to two sequences");
    ref_counts_[static_cast<size_t>(block)] = 1;
  }
  free_.reserve(static_cast<size_t>(n_blocks));
  for (int32_t block = n_blocks - 1; block >= 0; --block) {
    if (ref_count(block) == 0) free_.push_back(block);
  }
}

int32_t BlockManager::allocate() {
  TRIREME_CHECK_MSG(!free_.empty(), "no KV block is free");
  const int32_t block = free_.back();
  free_.pop_back();
  TRIREME_CHECK(ref_count(block) == 0);
  ref_counts_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockManager::add_reference(int32_t block) {
  TRIREME_CHECK_MSG(ref_count(block) > 0, "a free KV block cannot be shared");
  ++ref_counts_[static_cast<size_t>(block)];
}

void BlockManager::release(int32_t block) {
  TRIREME_CHECK_MSG(ref_count(block) > 0, "a KV block was freed twice");
  if (--ref_counts_[static_cast<size_t>(block)] == 0) free_.push_back(block);
}

int32_t BlockManager::ref_count(int32_t block) const {
  TRIREME_CHECK(block >= 0 && block < n_blocks());
  return ref_counts_[static_cast<size_t>(block)];
}

}  // namespace trireme
