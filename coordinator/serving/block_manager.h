#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace trireme {

// Which blocks of a group's KV pool are in use, and by how many sequences. The pool's memory is the
// ranks'; this is the one place that gives out its block ids, so the same table serves every stage.
class BlockManager {
 public:
  // Blocks 0 .. n_blocks - 1, all free.
  explicit BlockManager(int32_t n_blocks);
  // With those in `used` taken, each by one sequence.
  BlockManager(int32_t n_blocks, const std::vector<int32_t>& used);

  int32_t n_blocks() const { return static_cast<int32_t>(ref_counts_.size()); }
  int32_t n_free() const { return static_cast<int32_t>(free_.size()); }

  // A free block, with one reference. There must be one.
  int32_t allocate();
  // One more sequence reads `block`, which is in use.
  void add_reference(int32_t block);
  // One sequence less; the last one frees it.
  void release(int32_t block);
  // 0: free.
  int32_t ref_count(int32_t block) const;

 private:
  std::vector<int32_t> ref_counts_;  // [n_blocks]
  std::vector<int32_t> free_;        // a stack: blocks still warm in a cache go out first
};

}  // namespace trireme
