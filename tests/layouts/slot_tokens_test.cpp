// Plans may name a token as "the last one sampled in this slot" before the coordinator has seen it.
// The tokens are the same as with literal ids, on every layout, with several plans in flight.

#include <gtest/gtest.h>

#include "tests/layouts/thread_group.h"

namespace trireme::test {
namespace {

constexpr int kSequences = 3;
constexpr int kNewTokens = 10;

SequencePlan prompt_plan(int32_t slot) {
  SequencePlan s;
  s.request_id = static_cast<uint64_t>(slot) + 1;
  s.slot = slot;
  s.reset_slot = true;
  for (int32_t i = 0; i < 6 + slot; ++i) s.input_ids.push_back(10 + slot * 31 + i * 7);
  s.new_blocks = {slot * 2, slot * 2 + 1};
  s.sample = true;
  s.sampling = {.temperature = 0.8F, .seed = 77U + static_cast<uint64_t>(slot)};
  return s;
}

SequencePlan next_plan(const SequencePlan& first, int output_index, int32_t token) {
  SequencePlan s = first;
  s.reset_slot = false;
  s.new_blocks.clear();
  s.start_position = static_cast<int32_t>(first.input_ids.size()) + output_index - 1;
  s.input_ids = {token};
  s.output_index = output_index;
  return s;
}

std::vector<std::vector<int32_t>> generate(const std::shared_ptr<const PackedModel>& file,
                                           Layout layout, bool by_slot) {
  ThreadGroup::Limits limits;
  limits.max_plans_in_flight = kSequences;
  ThreadGroup group(file, layout, limits);
  std::vector<std::vector<int32_t>> tokens(kSequences);
  uint64_t step_id = 0;
  const auto send = [&](int32_t slot, int output_index) {
    const SequencePlan first = prompt_plan(slot);
    StepPlan plan;
    plan.epoch = 1;
    plan.step_id = ++step_id;
    plan.feed_samples = by_slot;
    const auto at = static_cast<size_t>(slot);
    plan.sequences = {output_index == 0 ? first
                                        : next_plan(first, output_index,
                                                    by_slot ? kTokenFromSlot : tokens[at].back())};
    group.send(plan);
  };
  const auto receive = [&] {
    const StepResult result = group.receive();
    const SequenceResult& s = result.sequences.at(0);
    tokens[static_cast<size_t>(s.slot)].push_back(s.drawn.at(0).token_id);
  };
  for (int i = 0; i < kNewTokens; ++i) {
    for (int32_t slot = 0; slot < kSequences; ++slot) {
      send(slot, i);
      // By slot, a sequence's next plan leaves before its last token was seen here.
      if (!by_slot || i > 0) receive();
    }
  }
  if (by_slot) {
    for (int i = 0; i < kSequences; ++i) receive();
  }
  return tokens;
}

TEST(SlotTokens, GiveTheTokensOfLiteralIds) {
  const TemporaryPackedModel packed(TRIREME_SOURCE_DIR "/tests/golden/llama", WeightFormat::kBF16);
  const auto expected = generate(packed.file(), {1, 1}, false);
  for (const auto& sequence : expected) ASSERT_EQ(sequence.size(), size_t{kNewTokens});
  for (const Layout layout : {Layout{1, 1}, {2, 1}, {1, 2}, {2, 2}, {1, 3}, {3, 3}}) {
    EXPECT_EQ(generate(packed.file(), layout, false), expected) << layout.tp << "x" << layout.pp;
    EXPECT_EQ(generate(packed.file(), layout, true), expected) << layout.tp << "x" << layout.pp;
  }
}

}  // namespace
}  // namespace trireme::test
