#pragma once

#include <cstdint>
#include <vector>

#include "comm/control/step_plan.h"
#include "model/stage_forward.h"

namespace trireme {

// Per-sequence state that lives on a rank between steps, by slot, and the flat arrays of one step.
// Sized once; assign() allocates nothing. A plan that does not fit is a bug of the coordinator.
class StepBatch {
 public:
  StepBatch(int32_t max_slots, int32_t max_tokens, int32_t context_length, int32_t n_blocks);

  // Applies the plan's block-table deltas and lays its tokens out flat. Tokens named by slot are
  // looked up with last_token().
  void assign(const StepPlan& plan);

  StepTokens tokens() const;
  // First row of sequence i of the assigned plan; first_row(n_sequences) is the number of rows.
  int32_t first_row(size_t sequence) const { return first_row_[sequence]; }

  void set_last_token(int32_t slot, int32_t token_id);
  int32_t last_token(int32_t slot) const;

 private:
  void assign_sequence(const SequencePlan& sequence);

  int32_t max_slots_;
  int32_t max_tokens_;
  int32_t n_blocks_;
  int32_t table_stride_;
  int32_t n_tokens_ = 0;
  std::vector<int32_t> block_tables_;                                  // [max_slots, table_stride]
  std::vector<int32_t> n_table_blocks_;                                // [max_slots]
  std::vector<int32_t> last_token_;                                    // [max_slots]
  std::vector<int32_t> input_ids_, positions_, slots_, slot_mapping_;  // [max_tokens]
  std::vector<int32_t> first_row_;                                     // [n_sequences + 1]
};

}  // namespace trireme
