#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/control/logit_rules.h"

namespace trireme {

constexpr int kBlockSize = 16;  // tokens in one KV block

// In SequencePlan::input_ids: "the last token sampled in this sequence's slot".
constexpr int32_t kTokenFromSlot = -1;

// How one token is drawn. temperature 0 is greedy (ties to the lowest id).
struct SamplingParams {
  float temperature = 0.0F;
  float top_p = 1.0F;
  int32_t top_k = 0;  // 0: all
  uint64_t seed =
      0;  // always set by the coordinator; with choice and output_index it keys the noise
  float min_p = 0.0F;  // tokens less likely than this share of the likeliest are not drawn
};

// One sequence's part in one step: n = input_ids.size() tokens at positions
// [start_position, start_position + n).
struct SequencePlan {
  uint64_t request_id = 0;
  uint32_t model_id = 0;
  uint32_t adapter_id = 0;  // 0: none
  uint32_t choice = 0;      // which of a request's n choices
  int32_t slot = 0;         // row of the ranks' per-sequence state, < max_slots
  bool reset_slot = false;  // forget what the slot held: first plan of a (re)started sequence
  int32_t start_position = 0;
  std::vector<int32_t> input_ids;   // literals or kTokenFromSlot
  std::vector<int32_t> new_blocks;  // block-table delta: appended to the slot's block table
  bool sample = false;              // draw a token after the last input token
  int32_t output_index = 0;         // index of that token in the sequence's output
  SamplingParams sampling;
  bool want_logits = false;  // return the last position's logits
  // log p of these tokens after each input token (-1: not wanted); empty or as long as input_ids
  std::vector<int32_t> logprob_targets;
  int32_t n_logprobs = 0;  // how many most likely tokens to report with a sampled one
  // With reset_slot: what changes the logits of the sequence from now on; null: nothing.
  std::shared_ptr<const SlotRules> slot_rules;
  int32_t n_target_logprobs = 0;  // how many most likely tokens to report with each target
  // With `sample`: drawn only from the tokens of a TokenMask, which follows the plan.
  bool masked = false;
  bool want_hidden = false;  // return the last position's hidden state, after the final norm
  // With `sample`: so many of the last input tokens, not all of them, are guesses of what will be
  // drawn after those before. A token is drawn after each as long as the guesses are right.
  int32_t n_guesses = 0;
};

// What all ranks of a group do in one step. Ranks get the same plan.
struct StepPlan {
  uint64_t epoch = 0;
  uint64_t step_id = 0;     // consecutive from 1 in an epoch
  uint64_t generation = 0;  // of the weights (WeightsFile): one for all sequences of a plan
  bool trace = false;       // every rank returns hashes of what each operator gave
  // Every first-stage rank is given the tokens this plan samples, so that later plans may name them
  // by slot (kTokenFromSlot) before the coordinator has seen them.
  bool feed_samples = false;
  std::vector<SequencePlan> sequences;

  int n_tokens() const {
    size_t n = 0;
    for (const SequencePlan& s : sequences) n += s.input_ids.size();
    return static_cast<int>(n);
  }
};

// Which tokens a sequence of a plan may draw: the rank that samples waits for it. Sent after the
// plan, so that it can be made while the ranks compute.
struct TokenMask {
  uint64_t epoch = 0;
  uint64_t step_id = 0;
  uint64_t request_id = 0;
  // [ceil(vocab_size / 32)]: bit i % 32 of words[i / 32] for token i; at least one is set. Empty:
  // the sequence has ended meanwhile, and no token is to be drawn.
  std::vector<uint32_t> words;
};

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0.0F;
};

struct DrawnToken {
  int32_t token_id = 0;
  float logprob = 0.0F;                    // log p of token_id before temperature and cuts
  std::vector<TokenLogprob> top_logprobs;  // [n_logprobs], most likely first
};

// What the last stage's first rank says of one SequencePlan.
struct SequenceResult {
  uint64_t request_id = 0;
  int32_t slot = 0;
  // Behind the last certain input token, then one behind each right guess; none without `sample`,
  // or where the sequence has ended meanwhile.
  std::vector<DrawnToken> drawn;
  std::vector<float> logits;           // [vocab_size] when want_logits
  std::vector<float> target_logprobs;  // as long as logprob_targets
  // With n_target_logprobs as long as logprob_targets, most likely first; empty without a target.
  std::vector<std::vector<TokenLogprob>> target_top_logprobs;
  std::vector<float> hidden;  // [hidden_size] when want_hidden
};

// A hash of one unit (head, leaf, or whole row set) of one operator's output on one rank. Equal
// (sequence, position range, layer, op, unit) must have equal hashes on every layout.
struct TraceEntry {
  int32_t layer = 0;  // -1: before the first layer; n_layers: after the last
  int32_t op = 0;     // row of trace_op_names()
  int32_t unit = 0;   // head, leaf or 0
  uint64_t hash = 0;
};

struct StepResult {
  uint64_t epoch = 0;
  uint64_t step_id = 0;
  int32_t world_rank = 0;
  std::vector<SequenceResult> sequences;  // only from the rank that samples
  std::vector<TraceEntry> trace;          // only when the plan asked
};

}  // namespace trireme
