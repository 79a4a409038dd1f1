#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <vector>

#include "coordinator/serving/prefix_cache.h"

namespace trireme {

// Who holds a KV block: what only waiting sequences hold can be taken from them.
enum class BlockUser : uint8_t { kRunning, kWaiting };

// A prefix that can be found again, as another coordinator is told of it.
struct CachedBlock {
  int32_t block = -1;
  int32_t parent = -1;  // the block that the prefix before it ends in; -1: that is empty
  BlockTokens tokens = {};
  PrefixDomain domain;
};
struct CachedBlocks {
  std::vector<CachedBlock> prefixes;  // a parent before what goes on from it
  std::vector<int32_t> unheld;        // of their blocks; longest unheld first
};

// Which blocks of a group's KV pool are in use, by how many sequences, and which prefixes can be
// found in them again. The pool's memory is the ranks'; this is the one place that gives out its
// block ids, so the same table serves every stage.
//
// A block that nobody holds any more is free, or, where it ends a cached prefix, keeps it until
// there is no free one left: then the one goes that was not held for the longest time.
class BlockManager {
 public:
  // Blocks 0 .. n_blocks - 1, all free. `hash`: of the prefix cache.
  explicit BlockManager(int32_t n_blocks, PrefixCache::Hash hash = {});
  // As another one was. `held`: by waiting sequences, a block once for each of them.
  BlockManager(int32_t n_blocks, const std::vector<int32_t>& held, const CachedBlocks& cached);
  BlockManager(BlockManager&&) = default;
  BlockManager& operator=(BlockManager&&) = default;

  int32_t n_blocks() const { return static_cast<int32_t>(places_.size()); }
  // That hold nothing.
  int32_t n_free() const { return static_cast<int32_t>(free_.size()); }
  // That nobody holds: free, or with a cached prefix.
  int32_t n_unused() const { return n_free() + static_cast<int32_t>(cached_.size()); }
  // That running sequences hold.
  int32_t n_running() const { return n_running_; }

  // An unused block, with one reference. There must be one.
  int32_t allocate(BlockUser user);
  // One more sequence reads `block`, which is not free.
  void add_reference(int32_t block, BlockUser user);
  // A sequence that holds it begins to run, or to wait.
  void pass(int32_t block, BlockUser from, BlockUser to);
  // One sequence less.
  void release(int32_t block, BlockUser user);
  int32_t ref_count(int32_t block, BlockUser user) const;
  bool is_held(int32_t block) const;

  // The prefix is found from now on, in `block`, which is held; or it is found in another one
  // already. kEmptyPrefix: it cannot be cached.
  PrefixId publish(const PrefixKey& key, int32_t block);
  CachedPrefix find(const PrefixKey& key) const { return cache_.find(key); }
  // Forgets the prefixes of a generation of weights.
  void forget_generation(uint64_t generation);
  CachedBlocks cached() const;

 private:
  int32_t& count(int32_t block, BlockUser user);
  void free_unheld(int32_t block);

  std::array<std::vector<int32_t>, 2> ref_counts_;  // [user][n_blocks]
  int32_t n_running_ = 0;                           // blocks
  std::vector<int32_t> free_;  // a stack: blocks still warm in a processor's cache go out first
  PrefixCache cache_;
  // Unheld blocks with a prefix, longest unheld first. The places of all others are in spare_, so
  // that moving one allocates nothing.
  std::list<int32_t> cached_;
  std::list<int32_t> spare_;
  std::vector<std::list<int32_t>::iterator> places_;  // [n_blocks]
};

}  // namespace trireme
