#include "coordinator/serving/prefix_cache.h"

#include <utility>

#include "coordinator/serving/siphash.h"
#include "kernels/check.h"

namespace trireme {
namespace {

template <typename T>
void append(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

PrefixCache::PrefixCache(int32_t n_blocks, Hash hash)
    : hash_(std::move(hash)), entries_(static_cast<size_t>(n_blocks)) {
  if (hash_) return;
  hash_ = [key = draw_sip_key()](std::string_view bytes) { return siphash(key, bytes); };
}

uint64_t PrefixCache::hash_of(const PrefixKey& key) const {
  bytes_.clear();
  append(bytes_, key.parent);
  append(bytes_, key.tokens);
  append(bytes_, key.domain.generation);
  append(bytes_, key.domain.model_id);
  append(bytes_, key.domain.adapter_id);
  bytes_ += key.domain.cache_salt;
  return hash_(bytes_);
}

CachedPrefix PrefixCache::find(const PrefixKey& key) const {
  const auto found = by_hash_.find(hash_of(key));
  if (found == by_hash_.end()) return {};
  const Entry& there = entry(found->second);
  if (there.key != key) return {};
  return {.id = there.id, .block = found->second};
}

PrefixId PrefixCache::add(PrefixKey key, int32_t block) {
  TRIREME_CHECK(block >= 0 && static_cast<size_t>(block) < entries_.size());
  TRIREME_CHECK_MSG(!holds(block), "a KV block ends two prefixes");
  const uint64_t hash = hash_of(key);
  const auto [place, is_new] = by_hash_.emplace(hash, block);
  if (!is_new) {
    TRIREME_CHECK_MSG(entry(place->second).key != key, "a prefix is cached twice");
    return kEmptyPrefix;
  }
  Entry& added = entries_[static_cast<size_t>(block)];
  added = {.id = ++last_id_, .hash = hash, .key = std::move(key)};
  return added.id;
}

void PrefixCache::forget(int32_t block) {
  TRIREME_CHECK(holds(block));
  Entry& gone = entries_[static_cast<size_t>(block)];
  by_hash_.erase(gone.hash);
  gone = {};
}

}  // namespace trireme
