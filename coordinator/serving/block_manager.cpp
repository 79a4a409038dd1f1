#include "coordinator/serving/block_manager.h"

#include <map>
#include <utility>

#include "kernels/check.h"

namespace trireme {
namespace {

// Unheld blocks whose prefixes are carried, the last used ones: streams pause while they are.
constexpr size_t kMostCarried = 16384;

}  // namespace

BlockManager::BlockManager(int32_t n_blocks, PrefixCache::Hash hash)
    : cache_(n_blocks, std::move(hash)) {
  TRIREME_CHECK(n_blocks >= 0);
  for (auto& counts : ref_counts_) counts.resize(static_cast<size_t>(n_blocks));
  free_.reserve(static_cast<size_t>(n_blocks));
  for (int32_t block = n_blocks - 1; block >= 0; --block) free_.push_back(block);
  for (int32_t block = 0; block < n_blocks; ++block)
    places_.push_back(spare_.insert(spare_.end(), block));
}

BlockManager::BlockManager(int32_t n_blocks, const std::vector<int32_t>& held,
                           const CachedBlocks& cached)
    : BlockManager(n_blocks) {
  for (const int32_t block : held) ++count(block, BlockUser::kWaiting);
  for (const CachedBlock& prefix : cached.prefixes) {
    const PrefixId parent = prefix.parent < 0 ? kEmptyPrefix : cache_.id_of(prefix.parent);
    cache_.add({.parent = parent, .tokens = prefix.tokens, .domain = prefix.domain}, prefix.block);
  }
  for (const int32_t block : cached.unheld)
    cached_.splice(cached_.end(), spare_, places_.at(static_cast<size_t>(block)));
  std::erase_if(free_, [this](int32_t block) { return is_held(block) || cache_.holds(block); });
}

int32_t BlockManager::allocate(BlockUser user) {
  TRIREME_CHECK_MSG(n_unused() > 0, "no KV block is free");
  if (free_.empty()) free_unheld(cached_.front());
  const int32_t block = free_.back();
  free_.pop_back();
  TRIREME_CHECK(!is_held(block) && !cache_.holds(block));
  count(block, user) = 1;
  n_running_ += user == BlockUser::kRunning ? 1 : 0;
  return block;
}

void BlockManager::add_reference(int32_t block, BlockUser user) {
  TRIREME_CHECK_MSG(is_held(block) || cache_.holds(block), "a free KV block cannot be shared");
  if (!is_held(block)) spare_.splice(spare_.end(), cached_, places_[static_cast<size_t>(block)]);
  if (++count(block, user) == 1 && user == BlockUser::kRunning) ++n_running_;
}

void BlockManager::pass(int32_t block, BlockUser from, BlockUser to) {
  add_reference(block, to);
  release(block, from);
}

void BlockManager::release(int32_t block, BlockUser user) {
  TRIREME_CHECK_MSG(count(block, user) > 0, "a KV block was freed twice");
  if (--count(block, user) == 0 && user == BlockUser::kRunning) --n_running_;
  if (is_held(block)) return;
  if (cache_.holds(block)) {
    cached_.splice(cached_.end(), spare_, places_[static_cast<size_t>(block)]);
  } else {
    free_.push_back(block);
  }
}

int32_t BlockManager::ref_count(int32_t block, BlockUser user) const {
  TRIREME_CHECK(block >= 0 && block < n_blocks());
  return ref_counts_[static_cast<size_t>(user)][static_cast<size_t>(block)];
}

bool BlockManager::is_held(int32_t block) const {
  return ref_count(block, BlockUser::kRunning) > 0 || ref_count(block, BlockUser::kWaiting) > 0;
}

PrefixId BlockManager::publish(const PrefixKey& key, int32_t block) {
  TRIREME_CHECK_MSG(is_held(block), "nobody keeps the KV block of a new prefix");
  const CachedPrefix there = cache_.find(key);
  return there.id != kEmptyPrefix ? there.id : cache_.add(key, block);
}

void BlockManager::forget_generation(uint64_t generation) {
  for (int32_t block = 0; block < n_blocks(); ++block) {
    if (!cache_.holds(block) || cache_.key_of(block).domain.generation != generation) continue;
    if (is_held(block)) {
      cache_.forget(block);
    } else {
      free_unheld(block);
    }
  }
}

CachedBlocks BlockManager::cached() const {
  std::map<PrefixId, int32_t> blocks;  // in the order of ids a parent comes first
  for (int32_t block = 0; block < n_blocks(); ++block) {
    if (cache_.holds(block) && is_held(block)) blocks.emplace(cache_.id_of(block), block);
  }
  size_t n_carried = 0;
  for (auto last = cached_.rbegin(); last != cached_.rend() && n_carried < kMostCarried; ++last) {
    blocks.emplace(cache_.id_of(*last), *last);
    ++n_carried;
  }
  CachedBlocks all;
  for (auto next = blocks.begin(); next != blocks.end();) {
    const auto [id, block] = *next;
    const PrefixKey& key = cache_.key_of(block);
    const auto parent = blocks.find(key.parent);
    if (key.parent != kEmptyPrefix && parent == blocks.end()) {
      next = blocks.erase(next);  // without what it goes on from, nobody can come to it
      continue;
    }
    all.prefixes.push_back({.block = block,
                            .parent = key.parent == kEmptyPrefix ? -1 : parent->second,
                            .tokens = key.tokens,
                            .domain = key.domain});
    ++next;
  }
  for (const int32_t block : cached_) {
    if (blocks.count(cache_.id_of(block)) > 0) all.unheld.push_back(block);
  }
  return all;
}

int32_t& BlockManager::count(int32_t block, BlockUser user) {
  TRIREME_CHECK(block >= 0 && block < n_blocks());
  return ref_counts_[static_cast<size_t>(user)][static_cast<size_t>(block)];
}

// Of those with a prefix.
void BlockManager::free_unheld(int32_t block) {
  cache_.forget(block);
  spare_.splice(spare_.end(), cached_, places_[static_cast<size_t>(block)]);
  free_.push_back(block);
}

}  // namespace trireme
