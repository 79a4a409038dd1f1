#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "comm/control/step_plan.h"
#include "coordinator/serving/inference_service.h"
#include "tests/coordinator/serving_fake_guide.h"

namespace trireme::fake {

// The fake model: its state after a token is a hash of all tokens so far, kept in the KV cell of
// that token; everything it answers is a function of that state. Its weights are their generation.
inline uint64_t next_state(uint64_t state, int32_t token, uint64_t generation) {
  return mix(state, static_cast<uint64_t>(token) + 1000003U * generation);
}
inline int32_t draw(uint64_t state, const SamplingParams& sampling, uint32_t choice,
                    int32_t output_index) {
  const uint64_t noise = mix(mix(sampling.seed, choice), static_cast<uint64_t>(output_index));
  return static_cast<int32_t>(mix(state, noise) % kVocabSize);
}
// What the fake model makes of rules: the noise depends on all that the ranks were told of them.
struct FakeRules {
  std::shared_ptr<const LogitRules> rules;
  std::map<int32_t, int32_t> seen;  // token -> how often the output has it
  std::vector<int32_t> tail;

  void add(int32_t token) {
    if (rules == nullptr) return;
    if (rules->has_penalties()) ++seen[token];
    tail.push_back(token);
    if (tail.size() > rules->n_tail()) tail.erase(tail.begin());
  }
  // The state that a token is drawn from.
  uint64_t applied(uint64_t state) const {
    if (rules == nullptr) return state;
    uint64_t h = state;
    for (const auto& [token, n] : seen)
      h = mix(mix(h, static_cast<uint64_t>(token)), static_cast<uint64_t>(n));
    for (const int32_t token : tail) h = mix(h, static_cast<uint64_t>(token));
    return h;
  }
};
// The next one that the mask has.
inline int32_t draw_masked(int32_t drawn, const MaskWords& words) {
  while (!allows(words, drawn)) drawn = (drawn + 1) % kVocabSize;
  return drawn;
}
inline float logprob(uint64_t state, int32_t token) {
  return -static_cast<float>(mix(state, 1000U + static_cast<uint64_t>(token)) % 4096) / 256.0F;
}
inline std::vector<float> all_logits(uint64_t state) {
  std::vector<float> logits;
  for (int32_t id = 0; id < kVocabSize; ++id) logits.push_back(logprob(state, id));
  return logits;
}

inline std::vector<float> hidden_of(uint64_t state) {
  return {static_cast<float>(state % 1024), static_cast<float>((state >> 10) % 1024)};
}

// Rules of every kind that the ranks keep something for.
inline std::shared_ptr<const LogitRules> some_rules(uint64_t seed) {
  LogitRules rules;
  if (seed % 3 != 0) rules.presence_penalty = 0.5F;
  for (uint64_t i = 0; i < seed % 4; ++i) rules.bad_words.emplace_back(i + 1, 5);
  rules.min_tokens = 1;
  return std::make_shared<LogitRules>(std::move(rules));
}

// What a client heard.
struct Transcript {
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
  std::vector<float> prompt_logprobs;
  std::vector<float> last_logits;
  std::vector<float> embedding;
  FinishReason finish = FinishReason::kNone;
  std::string error;
  bool own_fault = false;
  int32_t n_cached_tokens = -1;  // once an event came

  void hear(GenerateEvent&& event) {
    EXPECT_EQ(finish, FinishReason::kNone) << "an event after the last";
    EXPECT_EQ(event.token_ids.size(), event.logprobs.size());
    token_ids.insert(token_ids.end(), event.token_ids.begin(), event.token_ids.end());
    logprobs.insert(logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    if (!event.prompt_logprobs.empty()) {
      EXPECT_TRUE(prompt_logprobs.empty()) << "prompt logprobs given twice";
      prompt_logprobs = std::move(event.prompt_logprobs);
    }
    if (!event.last_logits.empty()) {
      EXPECT_TRUE(last_logits.empty()) << "logits given twice";
      last_logits = std::move(event.last_logits);
    }
    if (!event.embedding.empty()) {
      EXPECT_TRUE(embedding.empty()) << "an embedding given twice";
      EXPECT_NE(event.finish, FinishReason::kNone) << "there is nothing to wait for after it";
      embedding = std::move(event.embedding);
    }
    EXPECT_EQ(event.n_output_tokens, static_cast<int32_t>(token_ids.size()));
    if (n_cached_tokens >= 0 && !event.token_ids.empty()) {
      EXPECT_EQ(event.n_cached_tokens, n_cached_tokens);
    }
    n_cached_tokens = event.n_cached_tokens;
    finish = event.finish;
    error = std::move(event.error);
    own_fault = event.own_fault;
  }
};

// What the model says when nothing disturbs it.
inline Transcript undisturbed(const GenerateRequest& request, uint64_t generation = 0) {
  Transcript out;
  uint64_t state = 0;
  for (size_t i = 0; i < request.prompt_ids.size(); ++i) {
    if (i > 0 && request.want_prompt_logprobs)
      out.prompt_logprobs.push_back(logprob(state, request.prompt_ids[i]));
    state = next_state(state, request.prompt_ids[i], generation);
  }
  if (request.want_last_logits) out.last_logits = all_logits(state);
  out.finish = FinishReason::kLength;
  if (request.want_embedding) {
    out.embedding = hidden_of(state);
    out.finish = FinishReason::kStop;
  }
  FakeRules rules{.rules = request.rules, .seen = {}, .tail = {}};
  if (request.rules != nullptr && request.rules->has_penalties()) {
    for (const int32_t id : request.prompt_ids) rules.seen[id] = 0;
  }
  std::unique_ptr<Guide> guide;
  if (!request.grammar.empty()) guide = std::make_unique<Guide>(request.grammar.text);
  for (int32_t i = 0; i < request.max_new_tokens; ++i) {
    int32_t token = draw(rules.applied(state), request.sampling, request.choice, i);
    if (guide) {
      MaskWords words = no_words();
      if (!guide->mask(words)) {
        out.finish = FinishReason::kError;
        break;
      }
      token = draw_masked(token, words);
      EXPECT_TRUE(guide->push(token).ok());
    }
    rules.add(token);
    out.token_ids.push_back(token);
    out.logprobs.push_back(logprob(state, token));
    const std::vector<int32_t>& stops = request.stop_token_ids;
    if ((token == kEos && (!request.ignore_eos || guide)) ||
        std::find(stops.begin(), stops.end(), token) != stops.end()) {
      out.finish = FinishReason::kStop;
      break;
    }
    state = next_state(state, token, generation);
  }
  return out;
}

inline void expect_equal(const Transcript& got, const Transcript& want) {
  EXPECT_EQ(got.token_ids, want.token_ids);
  EXPECT_EQ(got.logprobs, want.logprobs);
  EXPECT_EQ(got.prompt_logprobs, want.prompt_logprobs);
  EXPECT_EQ(got.last_logits, want.last_logits);
  EXPECT_EQ(got.embedding, want.embedding);
  EXPECT_EQ(got.finish, want.finish) << got.error;
}

// One group's ranks: runs plans with the fake model over a paged KV, and holds every plan against
// the contract of step_plan.h.
class Ranks {
 public:
  Ranks(int32_t max_slots, int32_t n_blocks, int32_t max_batch_tokens)
      : slots_(static_cast<size_t>(max_slots)),
        cells_(static_cast<size_t>(n_blocks) * kBlockSize),
        holders_(static_cast<size_t>(n_blocks)),
        max_batch_tokens_(max_batch_tokens) {}

  void mask(const TokenMask& mask) { masks_[{mask.step_id, mask.request_id}] = mask.words; }
  // Whether the plan's masks are all there.
  bool can_run(const StepPlan& plan) const {
    return std::all_of(plan.sequences.begin(), plan.sequences.end(), [&](const auto& part) {
      return !part.masked || masks_.count({plan.step_id, part.request_id}) > 0;
    });
  }

  // The coordinator has the result of this step.
  void confirm(uint64_t step_id) { confirmed_step_id_ = step_id; }

  // New ranks on the KV memory of these: what unconfirmed steps wrote is of no use.
  void relaunch() {
    for (Cell& cell : cells_) {
      if (cell.step_id > confirmed_step_id_) cell = {.state = kGarbage};
      cell.step_id = 0;
    }
    slots_.assign(slots_.size(), {});
    holders_.assign(holders_.size(), {});
    masks_.clear();
    last_step_id_ = 0;
    confirmed_step_id_ = 0;
  }

  StepResult run(const StepPlan& plan) {
    EXPECT_EQ(plan.step_id, ++last_step_id_);
    EXPECT_FALSE(plan.sequences.empty());
    EXPECT_LE(plan.n_tokens(), max_batch_tokens_);
    std::set<uint64_t> seen;
    StepResult result;
    result.epoch = plan.epoch;
    result.step_id = plan.step_id;
    for (const SequencePlan& part : plan.sequences) {
      EXPECT_TRUE(seen.insert(part.request_id).second) << "twice in a plan";
      result.sequences.push_back(run(part, plan.generation, plan.feed_samples));
    }
    return result;
  }

 private:
  static constexpr uint64_t kGarbage = 0xDEADULL;

  struct Slot {
    uint64_t request_id = 0;
    bool valid = false;  // false: another wrote to its blocks, only a reset may follow
    int32_t n_tokens = 0;
    int32_t last_token = -1;  // fed by a plan: a later one may name it
    std::vector<int32_t> table;
    FakeRules rules;
  };
  struct Cell {
    uint64_t state = kGarbage;
    uint64_t step_id = 0;  // that wrote it
  };

  void take_blocks(const SequencePlan& part, Slot& slot) {
    for (const int32_t block : part.new_blocks) {
      const bool is_new = holders_.at(static_cast<size_t>(block)).insert(part.slot).second;
      EXPECT_TRUE(is_new) << "a block twice in one table";
      slot.table.push_back(block);
    }
  }

  // Whoever else has the block in its table has lost it.
  void begin_to_write(const Slot& slot, int32_t position, int32_t writer) {
    const int32_t block = slot.table.at(static_cast<size_t>(position / kBlockSize));
    std::set<int32_t>& holders = holders_[static_cast<size_t>(block)];
    for (const int32_t holder : holders) {
      if (holder != writer) slots_[static_cast<size_t>(holder)].valid = false;
    }
    holders = {writer};
  }

  Cell& cell(const Slot& slot, int32_t position) {
    const int32_t block = slot.table.at(static_cast<size_t>(position / kBlockSize));
    return cells_[static_cast<size_t>(block * kBlockSize + position % kBlockSize)];
  }

  static FakeRules begin_rules(const SequencePlan& part) {
    FakeRules rules;
    if (part.slot_rules == nullptr) return rules;
    rules.rules = part.slot_rules->rules;
    for (const TokenCount& seen : part.slot_rules->seen) {
      EXPECT_TRUE(rules.seen.emplace(seen.token_id, seen.n_output).second) << "a token twice";
    }
    rules.tail = part.slot_rules->output_tail;
    return rules;
  }

  SequenceResult run(const SequencePlan& part, uint64_t generation, bool feed) {
    Slot& slot = slots_.at(static_cast<size_t>(part.slot));
    if (part.reset_slot) {
      for (std::set<int32_t>& holders : holders_) holders.erase(part.slot);
      slot = {};
      slot.request_id = part.request_id;
      slot.valid = true;
      slot.n_tokens = part.start_position;  // the cells before it are checked when they are read
      slot.rules = begin_rules(part);
    }
    take_blocks(part, slot);
    EXPECT_TRUE(slot.valid) << "another sequence wrote to its KV blocks";
    EXPECT_EQ(slot.request_id, part.request_id);
    EXPECT_EQ(slot.n_tokens, part.start_position) << "tokens are not contiguous";
    EXPECT_FALSE(part.input_ids.empty());

    SequenceResult result;
    result.request_id = part.request_id;
    result.slot = part.slot;
    uint64_t state = 0;
    for (size_t i = 0; i < part.input_ids.size(); ++i) {
      const int32_t position = slot.n_tokens++;
      state = 0;
      if (position > 0) {
        const Cell& last = cell(slot, position - 1);
        EXPECT_NE(last.state, kGarbage) << "KV that no confirmed step wrote";
        state = last.state;
      }
      const bool by_slot = part.input_ids[i] == kTokenFromSlot;
      const int32_t token = by_slot ? slot.last_token : part.input_ids[i];
      EXPECT_GE(token, 0) << "a token that was never drawn";
      state = next_state(state, token, generation);
      begin_to_write(slot, position, part.slot);
      cell(slot, position) = {.state = state, .step_id = last_step_id_};
      if (!part.logprob_targets.empty()) {
        const int32_t target = part.logprob_targets.at(i);
        result.target_logprobs.push_back(target < 0 ? 0.0F : logprob(state, target));
      }
    }
    if (part.want_logits)
      result.logits = all_logits(cell(slot, slot.n_tokens - part.n_guesses - 1).state);
    if (part.want_hidden) {
      EXPECT_EQ(part.n_guesses, 0) << "there is nothing to guess";
      result.hidden = hidden_of(state);
    }
    if (part.sample) draw_all(part, feed, slot, result);
    return result;
  }

  void draw_all(const SequencePlan& part, bool feed, Slot& slot, SequenceResult& result) {
    EXPECT_LT(part.n_guesses, static_cast<int32_t>(part.input_ids.size()));
    const int32_t n_known = slot.n_tokens - part.n_guesses;
    for (int32_t i = 0; i <= part.n_guesses; ++i) {
      const uint64_t state = cell(slot, n_known + i - 1).state;
      int32_t token =
          draw(slot.rules.applied(state), part.sampling, part.choice, part.output_index + i);
      if (part.masked) token = take_mask(part.request_id, token);
      if (token < 0) return;
      slot.rules.add(token);
      result.drawn.push_back({token, logprob(state, token), {}});
      if (feed) slot.last_token = token;
      slot.n_tokens = n_known + i;
      const size_t guess = part.input_ids.size() - static_cast<size_t>(part.n_guesses - i);
      if (i == part.n_guesses || part.input_ids[guess] != token) return;
    }
  }

  // The token drawn with the mask of this step; -1 where that has no words.
  int32_t take_mask(uint64_t request_id, int32_t drawn) {
    const auto found = masks_.find({last_step_id_, request_id});
    if (found == masks_.end()) {
      ADD_FAILURE() << "a step ran before its mask came";
      return drawn;
    }
    const MaskWords words = std::move(found->second);
    masks_.erase(found);
    return words.empty() ? -1 : draw_masked(drawn, words);
  }

  std::vector<Slot> slots_;
  std::map<std::pair<uint64_t, uint64_t>, MaskWords> masks_;  // by step and request
  std::vector<Cell> cells_;
  std::vector<std::set<int32_t>> holders_;  // [n_blocks] slots
  int32_t max_batch_tokens_;
  uint64_t last_step_id_ = 0;
  uint64_t confirmed_step_id_ = 0;
};

}  // namespace trireme::fake
