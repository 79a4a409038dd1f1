#include <gtest/gtest.h>

#include <set>

#include "coordinator/serving/block_manager.h"

namespace trireme {
namespace {

TEST(BlockManager, GivesEveryBlockOnceAndTakesThemBack) {
  BlockManager blocks(5);
  std::set<int32_t> given;
  for (int i = 0; i < 5; ++i) given.insert(blocks.allocate());
  EXPECT_EQ(given, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(blocks.n_free(), 0);
  for (const int32_t block : given) blocks.release(block);
  EXPECT_EQ(blocks.n_free(), 5);
  EXPECT_EQ(blocks.n_blocks(), 5);
}

TEST(BlockManager, SharedBlockIsFreeWithItsLastReference) {
  BlockManager blocks(2);
  const int32_t block = blocks.allocate();
  blocks.add_reference(block);
  EXPECT_EQ(blocks.ref_count(block), 2);
  blocks.release(block);
  EXPECT_EQ(blocks.n_free(), 1);
  blocks.release(block);
  EXPECT_EQ(blocks.n_free(), 2);
  EXPECT_EQ(blocks.ref_count(block), 0);
}

TEST(BlockManagerDeathTest, MisuseAborts) {
  BlockManager blocks(1);
  const int32_t block = blocks.allocate();
  EXPECT_DEATH(blocks.allocate(), "no KV block is free");
  blocks.release(block);
  EXPECT_DEATH(blocks.release(block), "freed twice");
  EXPECT_DEATH(blocks.add_reference(block), "cannot be shared");
  EXPECT_DEATH(blocks.release(1), "check failed");
}

}  // namespace
}  // namespace trireme
