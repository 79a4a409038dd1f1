#include "worker/step_batch.h"

#include <gtest/gtest.h>

#include <limits>

namespace trireme {
namespace {

TEST(StepBatch, LaysTokensOutByBlockTable) {
  StepBatch batch(4, 64, 100, 10);
  StepPlan plan;
  plan.sequences.push_back({.slot = 2,
                            .reset_slot = true,
                            .start_position = 0,
                            .input_ids = std::vector<int32_t>(18, 7),
                            .new_blocks = {9, 3}});
  plan.sequences.push_back(
      {.slot = 0, .reset_slot = true, .start_position = 0, .input_ids = {5}, .new_blocks = {1}});
  batch.assign(plan);
  StepTokens tokens = batch.tokens();
  ASSERT_EQ(tokens.n_tokens, 19);
  EXPECT_EQ(tokens.slot_mapping[0], 9 * 16);
  EXPECT_EQ(tokens.slot_mapping[15], 9 * 16 + 15);
  EXPECT_EQ(tokens.slot_mapping[16], 3 * 16);
  EXPECT_EQ(tokens.slot_mapping[18], 1 * 16);
  EXPECT_EQ(tokens.positions[17], 17);
  EXPECT_EQ(tokens.slots[17], 2);
  EXPECT_EQ(tokens.slots[18], 0);
  EXPECT_EQ(batch.first_row(0), 0);
  EXPECT_EQ(batch.first_row(1), 18);
  EXPECT_EQ(tokens.block_tables[2 * tokens.block_table_stride + 1], 3);

  // The next step appends to the table and may name its token by slot.
  batch.set_last_token(2, 42);
  StepPlan next;
  next.sequences.push_back({.slot = 2, .start_position = 18, .input_ids = {kTokenFromSlot}});
  batch.assign(next);
  tokens = batch.tokens();
  ASSERT_EQ(tokens.n_tokens, 1);
  EXPECT_EQ(tokens.input_ids[0], 42);
  EXPECT_EQ(tokens.slot_mapping[0], 3 * 16 + 2);

  // A reset forgets the table.
  StepPlan again;
  again.sequences.push_back(
      {.slot = 2, .reset_slot = true, .start_position = 0, .input_ids = {1}, .new_blocks = {6}});
  batch.assign(again);
  EXPECT_EQ(batch.tokens().slot_mapping[0], 6 * 16);
}

TEST(StepBatchDeathTest, RefusesPlansThatDoNotFit) {
  StepBatch batch(2, 8, 32, 4);
  const auto run = [&](SequencePlan sequence) {
    StepPlan plan;
    plan.sequences.push_back(std::move(sequence));
    batch.assign(plan);
  };
  EXPECT_DEATH(run({.slot = 2, .input_ids = {1}, .new_blocks = {0}}), "check failed");
  EXPECT_DEATH(run({.slot = 0, .input_ids = {1}, .new_blocks = {4}}), "check failed");
  EXPECT_DEATH(run({.slot = 0, .input_ids = {1}}), "check failed");
  EXPECT_DEATH(run({.slot = 0, .start_position = -1, .input_ids = {1}, .new_blocks = {0}}),
               "check failed");
  EXPECT_DEATH(run({.slot = 0,
                    .start_position = std::numeric_limits<int32_t>::max(),
                    .input_ids = {1, 1},
                    .new_blocks = {0}}),
               "check failed");
  EXPECT_DEATH(run({.slot = 0, .input_ids = std::vector<int32_t>(9, 1), .new_blocks = {0}}),
               "check failed");
}

}  // namespace
}  // namespace trireme
