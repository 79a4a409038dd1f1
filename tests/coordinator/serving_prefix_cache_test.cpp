#include "coordinator/serving/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>

#include "coordinator/serving/siphash.h"

namespace trireme {
namespace {

PrefixKey key_of(PrefixId parent, int32_t first_token, PrefixDomain domain = {}) {
  PrefixKey key{.parent = parent, .tokens = {}, .domain = std::move(domain)};
  std::iota(key.tokens.begin(), key.tokens.end(), first_token);
  return key;
}

// The vectors of the reference implementation: key 00 01 .. 0f, input 00 01 .. (n - 1).
TEST(SipHash, GivesThePublishedValues) {
  const SipKey key = {0x0706050403020100U, 0x0F0E0D0C0B0A0908U};
  std::string input;
  const auto hash_of_first = [&](size_t n) {
    input.clear();
    for (size_t i = 0; i < n; ++i) input.push_back(static_cast<char>(i));
    return siphash(key, input);
  };
  EXPECT_EQ(hash_of_first(0), 0x726FDB47DD0E0E31U);
  EXPECT_EQ(hash_of_first(1), 0x74F839C593DC67FDU);
  EXPECT_EQ(hash_of_first(8), 0x93F5F5799A932462U);
  EXPECT_EQ(hash_of_first(15), 0xA129CA6149BE45E5U);
  EXPECT_NE(draw_sip_key(), draw_sip_key());
}

TEST(PrefixCache, FindsABlockByAllThatItWasComputedFrom) {
  PrefixCache cache(8);
  const PrefixDomain domain{.model_id = 0, .adapter_id = 1, .generation = 2, .cache_salt = "s"};
  const PrefixId first = cache.add(key_of(kEmptyPrefix, 100, domain), 5);
  ASSERT_NE(first, kEmptyPrefix);
  const PrefixId second = cache.add(key_of(first, 200, domain), 3);

  EXPECT_EQ(cache.find(key_of(kEmptyPrefix, 100, domain)).block, 5);
  EXPECT_EQ(cache.find(key_of(kEmptyPrefix, 100, domain)).id, first);
  EXPECT_EQ(cache.find(key_of(first, 200, domain)).block, 3);
  // The same tokens behind another prefix, or at the beginning.
  EXPECT_EQ(cache.find(key_of(second, 200, domain)).id, kEmptyPrefix);
  EXPECT_EQ(cache.find(key_of(kEmptyPrefix, 200, domain)).id, kEmptyPrefix);
  for (const PrefixDomain& other :
       {PrefixDomain{.model_id = 1, .adapter_id = 1, .generation = 2, .cache_salt = "s"},
        PrefixDomain{.model_id = 0, .adapter_id = 0, .generation = 2, .cache_salt = "s"},
        PrefixDomain{.model_id = 0, .adapter_id = 1, .generation = 1, .cache_salt = "s"},
        PrefixDomain{.model_id = 0, .adapter_id = 1, .generation = 2, .cache_salt = "t"},
        PrefixDomain{.model_id = 0, .adapter_id = 1, .generation = 2, .cache_salt = ""}}) {
    EXPECT_EQ(cache.find(key_of(kEmptyPrefix, 100, other)).id, kEmptyPrefix);
  }
  PrefixKey last_token = key_of(kEmptyPrefix, 100, domain);
  ++last_token.tokens.back();
  EXPECT_EQ(cache.find(last_token).id, kEmptyPrefix);
}

// What goes on from a prefix that was forgotten is not found behind its successor.
TEST(PrefixCache, GivesANumberOnce) {
  PrefixCache cache(2);
  const PrefixId old = cache.add(key_of(kEmptyPrefix, 1), 0);
  cache.add(key_of(old, 17), 1);
  cache.forget(0);
  EXPECT_FALSE(cache.holds(0));
  EXPECT_EQ(cache.find(key_of(kEmptyPrefix, 1)).id, kEmptyPrefix);
  const PrefixId again = cache.add(key_of(kEmptyPrefix, 1), 0);
  EXPECT_NE(again, old);
  EXPECT_EQ(cache.find(key_of(again, 17)).id, kEmptyPrefix);
}

// All hashes are equal: another tokens', parent's, adapter's, generation's or salt's KV is never
// found.
TEST(PrefixCache, CollidingHashesGiveNobodyAnothersKv) {
  PrefixCache cache(8, [](std::string_view) { return uint64_t{7}; });
  const PrefixDomain domain{.generation = 2, .cache_salt = "mine"};
  const PrefixId id = cache.add(key_of(kEmptyPrefix, 100, domain), 5);
  ASSERT_NE(id, kEmptyPrefix);
  EXPECT_EQ(cache.find(key_of(kEmptyPrefix, 100, domain)).block, 5);
  const auto expect_not_found = [&](const PrefixKey& key) {
    EXPECT_EQ(cache.find(key).id, kEmptyPrefix);
    EXPECT_EQ(cache.find(key).block, -1);
    EXPECT_EQ(cache.add(key, 6), kEmptyPrefix) << "the place is taken";
    EXPECT_FALSE(cache.holds(6));
  };
  expect_not_found(key_of(kEmptyPrefix, 101, domain));
  expect_not_found(key_of(id, 100, domain));
  expect_not_found(key_of(kEmptyPrefix, 100, {.generation = 2, .cache_salt = "yours"}));
  expect_not_found(key_of(kEmptyPrefix, 100, {.generation = 3, .cache_salt = "mine"}));
  expect_not_found(
      key_of(kEmptyPrefix, 100, {.adapter_id = 1, .generation = 2, .cache_salt = "mine"}));
  cache.forget(5);
  EXPECT_NE(cache.add(key_of(kEmptyPrefix, 101, domain), 6), kEmptyPrefix);
}

TEST(PrefixCacheDeathTest, MisuseAborts) {
  PrefixCache cache(2);
  cache.add(key_of(kEmptyPrefix, 1), 0);
  EXPECT_DEATH(cache.add(key_of(kEmptyPrefix, 2), 0), "ends two prefixes");
  EXPECT_DEATH(cache.add(key_of(kEmptyPrefix, 1), 1), "cached twice");
  EXPECT_DEATH(cache.forget(1), "check failed");
}

}  // namespace
}  // namespace trireme
