#include "coordinator/serving/block_manager.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace trireme {
namespace {

constexpr BlockUser kRunning = BlockUser::kRunning;
constexpr BlockUser kWaiting = BlockUser::kWaiting;

PrefixKey key_of(PrefixId parent, int32_t token, uint64_t generation = 0) {
  PrefixKey key{.parent = parent, .tokens = {}, .domain = {.generation = generation}};
  key.tokens.fill(token);
  return key;
}

TEST(BlockManager, GivesEveryBlockOnceAndTakesThemBack) {
  BlockManager blocks(5);
  std::set<int32_t> given;
  for (int i = 0; i < 5; ++i) given.insert(blocks.allocate(kRunning));
  EXPECT_EQ(given, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(blocks.n_unused(), 0);
  EXPECT_EQ(blocks.n_running(), 5);
  for (const int32_t block : given) blocks.release(block, kRunning);
  EXPECT_EQ(blocks.n_free(), 5);
  EXPECT_EQ(blocks.n_running(), 0);
  EXPECT_EQ(blocks.n_blocks(), 5);
}

TEST(BlockManager, SharedBlockIsFreeWithItsLastReference) {
  BlockManager blocks(2);
  const int32_t block = blocks.allocate(kRunning);
  blocks.add_reference(block, kRunning);
  EXPECT_EQ(blocks.ref_count(block, kRunning), 2);
  blocks.release(block, kRunning);
  EXPECT_EQ(blocks.n_free(), 1);
  blocks.pass(block, kRunning, kWaiting);
  EXPECT_EQ(blocks.n_running(), 0);
  EXPECT_EQ(blocks.n_free(), 1) << "a waiting sequence holds it";
  blocks.release(block, kWaiting);
  EXPECT_EQ(blocks.n_free(), 2);
  EXPECT_FALSE(blocks.is_held(block));
}

TEST(BlockManager, ACachedPrefixStaysUntilItsBlockIsNeeded) {
  BlockManager blocks(3);
  const int32_t first = blocks.allocate(kRunning);
  const int32_t second = blocks.allocate(kRunning);
  const PrefixId id = blocks.publish(key_of(kEmptyPrefix, 1), first);
  blocks.publish(key_of(id, 2), second);
  blocks.release(second, kRunning);  // the end first
  blocks.release(first, kRunning);
  EXPECT_EQ(blocks.n_free(), 1);
  EXPECT_EQ(blocks.n_unused(), 3);

  const int32_t third = blocks.allocate(kRunning);
  EXPECT_EQ(blocks.find(key_of(kEmptyPrefix, 1)).block, first) << "there was a free block";
  EXPECT_EQ(blocks.allocate(kRunning), second) << "unheld for longer";
  EXPECT_EQ(blocks.find(key_of(id, 2)).id, kEmptyPrefix);
  EXPECT_EQ(blocks.find(key_of(kEmptyPrefix, 1)).id, id);
  EXPECT_EQ(blocks.allocate(kRunning), first);
  EXPECT_EQ(blocks.find(key_of(kEmptyPrefix, 1)).id, kEmptyPrefix);
  for (const int32_t block : {first, second, third}) blocks.release(block, kRunning);
  EXPECT_EQ(blocks.n_free(), 3);
}

TEST(BlockManager, UseMakesAPrefixYoungAgain) {
  BlockManager blocks(2);
  const int32_t a = blocks.allocate(kRunning);
  const int32_t b = blocks.allocate(kRunning);
  blocks.publish(key_of(kEmptyPrefix, 1), a);
  blocks.publish(key_of(kEmptyPrefix, 2), b);
  blocks.release(a, kRunning);
  blocks.release(b, kRunning);
  blocks.add_reference(a, kWaiting);
  EXPECT_EQ(blocks.n_unused(), 1);
  blocks.release(a, kWaiting);
  EXPECT_EQ(blocks.allocate(kRunning), b);
}

// Two computed the same: the first one's block is found, the other's is an ordinary one.
TEST(BlockManager, OfEqualPrefixesOneIsCached) {
  BlockManager blocks(2);
  const int32_t a = blocks.allocate(kRunning);
  const int32_t b = blocks.allocate(kRunning);
  const PrefixId id = blocks.publish(key_of(kEmptyPrefix, 1), a);
  EXPECT_EQ(blocks.publish(key_of(kEmptyPrefix, 1), b), id);
  EXPECT_EQ(blocks.publish(key_of(kEmptyPrefix, 1), a), id);
  blocks.release(b, kRunning);
  EXPECT_EQ(blocks.n_free(), 1);
  EXPECT_EQ(blocks.find(key_of(kEmptyPrefix, 1)).block, a);
  blocks.release(a, kRunning);
}

TEST(BlockManager, ForgetsAGeneration) {
  BlockManager blocks(4);
  std::vector<int32_t> held;
  for (uint64_t generation = 1; generation <= 2; ++generation) {
    for (int32_t token = 1; token <= 2; ++token) {
      held.push_back(blocks.allocate(kRunning));
      blocks.publish(key_of(kEmptyPrefix, token, generation), held.back());
    }
  }
  blocks.release(held[0], kRunning);
  blocks.release(held[2], kRunning);
  blocks.forget_generation(1);
  EXPECT_EQ(blocks.n_free(), 1);
  EXPECT_EQ(blocks.find(key_of(kEmptyPrefix, 1, 1)).id, kEmptyPrefix);
  EXPECT_EQ(blocks.find(key_of(kEmptyPrefix, 2, 1)).id, kEmptyPrefix) << "held, and of no use";
  EXPECT_EQ(blocks.find(key_of(kEmptyPrefix, 1, 2)).block, held[2]);
  EXPECT_EQ(blocks.find(key_of(kEmptyPrefix, 2, 2)).block, held[3]);
  blocks.release(held[1], kRunning);
  blocks.release(held[3], kRunning);
  EXPECT_EQ(blocks.n_free(), 2);
  EXPECT_EQ(blocks.n_unused(), 4);
}

// The next coordinator finds the same blocks, and forgets them in the same order.
TEST(BlockManager, IsCarriedOver) {
  BlockManager blocks(6);
  std::vector<int32_t> chain;
  PrefixId id = kEmptyPrefix;
  for (int32_t token = 1; token <= 4; ++token) {
    chain.push_back(blocks.allocate(kWaiting));
    id = blocks.publish(key_of(id, token), chain.back());
  }
  for (size_t i = 4; i-- > 1;) blocks.release(chain[i], kWaiting);
  const int32_t plain = blocks.allocate(kWaiting);
  blocks.add_reference(plain, kWaiting);

  BlockManager next(6, {chain[0], plain, plain}, blocks.cached());
  EXPECT_EQ(next.n_free(), 1);
  EXPECT_EQ(next.n_unused(), 4);
  EXPECT_EQ(next.ref_count(plain, kWaiting), 2);
  id = kEmptyPrefix;
  for (int32_t token = 1; token <= 4; ++token) {
    const CachedPrefix found = next.find(key_of(id, token));
    ASSERT_EQ(found.block, chain[static_cast<size_t>(token) - 1]);
    id = found.id;
  }
  next.allocate(kRunning);
  EXPECT_EQ(next.allocate(kRunning), chain[3]);
}

// The last used ones, so that the pause does not grow without bound.
TEST(BlockManager, SoManyAreCarriedOver) {
  constexpr int32_t kBlocks = 20000;
  BlockManager blocks(kBlocks);
  for (int32_t i = 0; i < kBlocks; ++i)
    blocks.publish(key_of(kEmptyPrefix, i), blocks.allocate(kWaiting));
  for (int32_t block = 0; block < kBlocks; ++block) blocks.release(block, kWaiting);
  const CachedBlocks cached = blocks.cached();
  EXPECT_EQ(cached.prefixes.size(), 16384U);
  EXPECT_EQ(cached.unheld.front(), kBlocks - 16384);
  EXPECT_EQ(cached.unheld.back(), kBlocks - 1);
}

// What nobody can come to any more is not carried as if it stood at the beginning.
TEST(BlockManager, OrphansAreNotCarriedOver) {
  BlockManager blocks(3);
  const int32_t parent = blocks.allocate(kRunning);
  const PrefixId id = blocks.publish(key_of(kEmptyPrefix, 1), parent);
  const int32_t child = blocks.allocate(kRunning);
  const int32_t grandchild = blocks.allocate(kRunning);
  blocks.publish(key_of(blocks.publish(key_of(id, 2), child), 3), grandchild);
  blocks.release(parent, kRunning);
  EXPECT_EQ(blocks.allocate(kRunning), parent);
  blocks.release(child, kRunning);
  const CachedBlocks cached = blocks.cached();
  EXPECT_TRUE(cached.prefixes.empty());
  EXPECT_TRUE(cached.unheld.empty());
}

// Whatever is done, each block is in one state, and the counts follow.
TEST(BlockManager, RandomUse) {
  std::mt19937 random(5);
  const auto pick = [&](size_t n) { return random() % n; };
  BlockManager blocks(12);
  std::vector<std::pair<int32_t, BlockUser>> held;
  for (int i = 0; i < 100000; ++i) {
    const BlockUser user = pick(2) == 0 ? kRunning : kWaiting;
    const size_t action = pick(5);
    if (action == 0 && blocks.n_unused() > 0) {
      held.emplace_back(blocks.allocate(user), user);
    } else if (action == 1 && !held.empty()) {
      const int32_t block = held[pick(held.size())].first;
      blocks.publish(key_of(kEmptyPrefix, block / 2), block);
    } else if (action == 2) {
      const CachedPrefix found = blocks.find(key_of(kEmptyPrefix, static_cast<int32_t>(pick(6))));
      if (found.id == kEmptyPrefix) continue;
      blocks.add_reference(found.block, user);
      held.emplace_back(found.block, user);
    } else if (action >= 3 && !held.empty()) {
      std::swap(held[pick(held.size())], held.back());
      auto& [block, holder] = held.back();
      if (action == 3) {
        blocks.release(block, holder);
        held.pop_back();
      } else {
        blocks.pass(block, holder, user);
        holder = user;
      }
    }
    std::set<int32_t> all;
    std::set<int32_t> running;
    for (const auto& [block, holder] : held) {
      all.insert(block);
      if (holder == kRunning) running.insert(block);
    }
    ASSERT_EQ(blocks.n_running(), static_cast<int32_t>(running.size()));
    ASSERT_EQ(blocks.n_unused() + static_cast<int32_t>(all.size()), blocks.n_blocks());
    ASSERT_LE(blocks.n_free(), blocks.n_unused());
  }
}

TEST(BlockManagerDeathTest, MisuseAborts) {
  BlockManager blocks(1);
  const int32_t block = blocks.allocate(kRunning);
  EXPECT_DEATH(blocks.allocate(kRunning), "no KV block is free");
  EXPECT_DEATH(blocks.release(block, kWaiting), "freed twice");
  blocks.release(block, kRunning);
  EXPECT_DEATH(blocks.release(block, kRunning), "freed twice");
  EXPECT_DEATH(blocks.add_reference(block, kRunning), "cannot be shared");
  EXPECT_DEATH(blocks.publish(key_of(kEmptyPrefix, 1), block), "nobody keeps");
  EXPECT_DEATH(blocks.release(1, kRunning), "check failed");
}

}  // namespace
}  // namespace trireme
