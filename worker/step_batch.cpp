#include "worker/step_batch.h"

#include "kernels/int_math.h"

namespace trireme {

static_assert(kBlockSize == kKvBlockTokens);

StepBatch::StepBatch(int32_t max_slots, int32_t max_tokens, int32_t context_length,
                     int32_t n_blocks)
    : max_slots_(max_slots),
      max_tokens_(max_tokens),
      n_blocks_(n_blocks),
      table_stride_(round_up(div_ceil(context_length, kBlockSize), kAttentionChunk / kBlockSize)),
      block_tables_(static_cast<size_t>(max_slots) * static_cast<size_t>(table_stride_)),
      n_table_blocks_(static_cast<size_t>(max_slots)),
      last_token_(static_cast<size_t>(max_slots), -1),
      input_ids_(static_cast<size_t>(max_tokens)),
      positions_(static_cast<size_t>(max_tokens)),
      slots_(static_cast<size_t>(max_tokens)),
      slot_mapping_(static_cast<size_t>(max_tokens)) {
  TRIREME_CHECK(max_slots > 0 && max_tokens > 0 && context_length > 0 && n_blocks > 0);
  first_row_.reserve(static_cast<size_t>(max_slots) + 1);
}

void StepBatch::assign(const StepPlan& plan) {
  TRIREME_CHECK(static_cast<int32_t>(plan.sequences.size()) <= max_slots_);
  TRIREME_CHECK(plan.n_tokens() <= max_tokens_);
  n_tokens_ = 0;
  first_row_.clear();
  for (const SequencePlan& sequence : plan.sequences) {
    first_row_.push_back(n_tokens_);
    assign_sequence(sequence);
  }
  first_row_.push_back(n_tokens_);
}

void StepBatch::assign_sequence(const SequencePlan& sequence) {
  TRIREME_CHECK(sequence.slot >= 0 && sequence.slot < max_slots_);
  const auto slot = static_cast<size_t>(sequence.slot);
  int32_t* table = &block_tables_[slot * static_cast<size_t>(table_stride_)];
  int32_t& n_table = n_table_blocks_[slot];
  if (sequence.reset_slot) {
    n_table = 0;
    last_token_[slot] = -1;
  }
  for (const int32_t block : sequence.new_blocks) {
    TRIREME_CHECK(block >= 0 && block < n_blocks_ && n_table < table_stride_);
    table[n_table++] = block;
  }
  const auto n_inputs = static_cast<int64_t>(sequence.input_ids.size());
  TRIREME_CHECK(sequence.start_position >= 0);
  TRIREME_CHECK(sequence.start_position + n_inputs <= int64_t{n_table} * kBlockSize);
  for (size_t i = 0; i < sequence.input_ids.size(); ++i) {
    const int32_t position = sequence.start_position + static_cast<int32_t>(i);
    const auto row = static_cast<size_t>(n_tokens_++);
    const int32_t id = sequence.input_ids[i];
    input_ids_[row] = id == kTokenFromSlot ? last_token(sequence.slot) : id;
    positions_[row] = position;
    slots_[row] = sequence.slot;
    slot_mapping_[row] = table[position / kBlockSize] * kBlockSize + position % kBlockSize;
  }
}

StepTokens StepBatch::tokens() const {
  return {.n_tokens = n_tokens_,
          .input_ids = input_ids_.data(),
          .positions = positions_.data(),
          .slots = slots_.data(),
          .slot_mapping = slot_mapping_.data(),
          .block_tables = block_tables_.data(),
          .block_table_stride = table_stride_};
}

void StepBatch::set_last_token(int32_t slot, int32_t token_id) {
  TRIREME_CHECK(slot >= 0 && slot < max_slots_);
  last_token_[static_cast<size_t>(slot)] = token_id;
}

int32_t StepBatch::last_token(int32_t slot) const {
  TRIREME_CHECK(slot >= 0 && slot < max_slots_);
  return last_token_[static_cast<size_t>(slot)];
}

}  // namespace trireme
