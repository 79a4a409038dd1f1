// The scheduler's use of the prefix cache.

#include <algorithm>

#include "coordinator/serving/scheduler.h"
#include "kernels/check.h"

namespace trireme {

BlockManager Scheduler::new_blocks(int32_t n_blocks) const {
  if (!config_.perturbation.colliding_prefixes) return BlockManager(n_blocks);
  return BlockManager(n_blocks, [](std::string_view bytes) { return bytes.size() % 2; });
}

// A waiting sequence gets the cached blocks that it can begin with. Often asked, it looks for one
// block more than it has.
void Scheduler::attach_cached(Sequence& sequence) {
  KvState& kv = sequence.kv;
  // Neither before it can begin, nor behind what it kept itself.
  if (!config_.prefix_cache || free_slots_.empty()) return;
  if (static_cast<int32_t>(kv.blocks.size()) > kv.n_prefix_blocks) return;
  const int32_t n_most = sequence.log.n_reusable() / kBlockSize;
  while (kv.n_prefix_blocks < n_most) {
    const CachedPrefix found = blocks_.find(next_prefix(sequence));
    if (found.id == kEmptyPrefix) return;
    blocks_.add_reference(found.block, BlockUser::kWaiting);
    kv.blocks.push_back(found.block);
    kv.prefix = found.id;
    kv.n_computed = ++kv.n_prefix_blocks * kBlockSize;
  }
}

int32_t Scheduler::n_cached(const Sequence& sequence) const {
  if (!config_.prefix_cache) return 0;
  const int32_t n_most = sequence.log.n_reusable() / kBlockSize;
  PrefixId prefix = kEmptyPrefix;
  for (int32_t n_blocks = 0; n_blocks < n_most; ++n_blocks) {
    prefix = blocks_.find(prefix_after(sequence, prefix, n_blocks)).id;
    if (prefix == kEmptyPrefix) return n_blocks * kBlockSize;
  }
  return n_most * kBlockSize;
}

// Whether a running sequence computes the next block of its prefix: it will be there sooner, and is
// computed once. Of equal prompts, as those of a request's choices, the first one runs and the
// others follow.
bool Scheduler::waits_for_prefix(const Sequence& sequence) const {
  const KvState& kv = sequence.kv;
  const int32_t end = (kv.n_prefix_blocks + 1) * kBlockSize;
  const bool kept_more = static_cast<int32_t>(kv.blocks.size()) > kv.n_prefix_blocks;
  if (!config_.prefix_cache || kept_more || end > sequence.log.n_reusable()) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const auto& entry) {
    const Sequence& other = *entry.second;
    return other.kv.prefix == kv.prefix && other.kv.n_prefix_blocks == kv.n_prefix_blocks &&
           !other.ended && other.kv.n_computed < end && end <= other.log.n_known() &&
           next_prefix(other) == next_prefix(sequence);
  });
}

// Caches the blocks that its results have filled.
void Scheduler::publish(Sequence& sequence) {
  if (!config_.prefix_cache) return;
  KvState& kv = sequence.kv;
  // A plan made ahead may have computed tokens that came to nothing.
  const int32_t n_full = std::min(kv.n_computed, sequence.log.n_known()) / kBlockSize;
  while (kv.n_prefix_blocks < n_full) {
    const int32_t block = kv.blocks[static_cast<size_t>(kv.n_prefix_blocks)];
    const PrefixId id = blocks_.publish(next_prefix(sequence), block);
    if (id == kEmptyPrefix) return;
    kv.prefix = id;
    ++kv.n_prefix_blocks;
  }
}

// When it begins for the first time: all that it has in KV is another's.
void Scheduler::count_cached(Sequence& sequence) {
  TokenLog& log = sequence.log;
  if (log.n_cached_prompt >= 0) return;
  log.n_cached_prompt = std::min(sequence.kv.n_computed, log.n_prompt());
  if (!config_.prefix_cache || log.n_reusable() == 0) return;
  prefix_counts_.n_queried += static_cast<uint64_t>(log.n_known());
  prefix_counts_.n_hit += static_cast<uint64_t>(sequence.kv.n_computed);
  prefix_counts_.n_cached_prompt += static_cast<uint64_t>(log.n_cached_prompt);
}

}  // namespace trireme
