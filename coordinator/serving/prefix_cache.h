#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "comm/control/step_plan.h"

namespace trireme {

// Names a prefix of whole blocks: a number given to one prefix and never again. Equal ids, equal
// tokens from the first one on, of one domain.
using PrefixId = uint64_t;
constexpr PrefixId kEmptyPrefix = 0;

// What else KV depends on, and who may use it. Nothing is shared between two of them.
struct PrefixDomain {
  uint32_t model_id = 0;
  uint32_t adapter_id = 0;
  uint64_t generation = 0;  // of the weights
  std::string cache_salt;
  bool operator==(const PrefixDomain&) const = default;
};

using BlockTokens = std::array<int32_t, kBlockSize>;

// A prefix by the one that is shorter by a block, and the tokens of that block.
struct PrefixKey {
  PrefixId parent = kEmptyPrefix;
  BlockTokens tokens = {};
  PrefixDomain domain;
  bool operator==(const PrefixKey&) const = default;
};

// Where the KV of a prefix's last block is.
struct CachedPrefix {
  PrefixId id = kEmptyPrefix;
  int32_t block = -1;
};

// What it was good for, in tokens of sequences that began; of none twice.
struct PrefixCacheCounts {
  uint64_t n_queried = 0;        // that it was asked for
  uint64_t n_hit = 0;            // whose KV was there
  uint64_t n_cached_prompt = 0;  // of those, prompt tokens

  PrefixCacheCounts operator-(const PrefixCacheCounts& earlier) const {
    return {n_queried - earlier.n_queried, n_hit - earlier.n_hit,
            n_cached_prompt - earlier.n_cached_prompt};
  }
  bool operator==(const PrefixCacheCounts&) const = default;
};

// Finds KV blocks by what they were computed from. A hash only says where to look: the key itself
// is compared, so prefixes with equal hashes are never taken for each other. (Of two such prefixes,
// one is not cached.) Holds at most one prefix a block; time and memory O(1) each.
class PrefixCache {
 public:
  using Hash = std::function<uint64_t(std::string_view bytes)>;

  // `hash` none: with a key drawn here, so that nobody can make prefixes whose hashes are equal.
  explicit PrefixCache(int32_t n_blocks, Hash hash = {});

  // id kEmptyPrefix: it is not there.
  CachedPrefix find(const PrefixKey& key) const;
  // A prefix that is not there, whose last block is `block`, of no other prefix. kEmptyPrefix: its
  // hash is another one's.
  PrefixId add(PrefixKey key, int32_t block);
  // The prefix that ends in this block.
  void forget(int32_t block);

  bool holds(int32_t block) const { return entry(block).id != kEmptyPrefix; }
  PrefixId id_of(int32_t block) const { return entry(block).id; }
  const PrefixKey& key_of(int32_t block) const { return entry(block).key; }

 private:
  struct Entry {
    PrefixId id = kEmptyPrefix;  // kEmptyPrefix: none
    uint64_t hash = 0;
    PrefixKey key;
  };

  uint64_t hash_of(const PrefixKey& key) const;
  const Entry& entry(int32_t block) const { return entries_[static_cast<size_t>(block)]; }

  Hash hash_;
  PrefixId last_id_ = kEmptyPrefix;
  std::vector<Entry> entries_;                     // [n_blocks]
  std::unordered_map<uint64_t, int32_t> by_hash_;  // blocks
  mutable std::string bytes_;                      // of hash_of
};

}  // namespace trireme
