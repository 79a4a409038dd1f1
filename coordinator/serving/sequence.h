#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/control/step_plan.h"
#include "coordinator/serving/drafter.h"
#include "coordinator/serving/inference_service.h"
#include "coordinator/serving/prefix_cache.h"

namespace trireme {

// The truth about one request: what it asked and what was answered. Enough to go on anywhere: a
// replay computes prompt + output again and draws the next token at the next output index.
struct TokenLog {
  GenerateRequest request;
  std::vector<int32_t> output_ids;     // tokens given to the client
  std::vector<float> prompt_logprobs;  // gathered until complete, then handed out
  int32_t n_prompt_logprobs = 0;       // how many were ever gathered: none is asked for twice
  bool last_logits_given = false;
  std::vector<std::vector<TokenLogprob>> prompt_top_logprobs;  // as prompt_logprobs, when wanted
  int32_t n_cached_prompt = -1;  // of its tokens, how many were in the prefix cache; -1: not asked

  int32_t n_prompt() const { return static_cast<int32_t>(request.prompt_ids.size()); }
  int32_t n_output() const { return static_cast<int32_t>(output_ids.size()); }
  int32_t n_known() const { return n_prompt() + n_output(); }
  int32_t token(int32_t position) const;
  // So many at the beginning need not be computed where their KV is there: not the last one, which
  // the next is drawn after, and none whose logprobs, logits or trace are wanted still.
  int32_t n_reusable() const;
};

// What the current group holds of a sequence. Preemption forgets it: kv = {}. A lost group leaves
// n_computed and blocks, in case the next one finds them in its memory.
struct KvState {
  int32_t slot = -1;            // -1: not running
  bool fresh = true;            // no plan since the slot was given: the first one resets it
  std::vector<int32_t> blocks;  // block table: block i holds positions [16 i, 16 i + 16)
  int32_t n_blocks_sent = 0;    // how many of them the ranks were told
  int32_t n_computed = 0;       // tokens in KV, confirmed by a result
  int32_t n_planned = 0;        // tokens in plans in flight
  int32_t n_plans = 0;          // plans in flight
  int32_t n_drawing = 0;        // tokens that they draw
  int32_t n_guesses = 0;        // of n_planned, what the plan in flight guesses
  // Of the blocks, so many at the beginning hold a cached prefix, or the same again.
  int32_t n_prefix_blocks = 0;
  PrefixId prefix = kEmptyPrefix;
};

struct Tenant;

struct Sequence {
  RequestId id = 0;  // grows with arrival
  TokenLog log;
  KvState kv;
  Tenant* tenant = nullptr;  // the scheduler's that it is in (FairQueue)
  int32_t n_charged = 0;     // tokens that a tenant was charged for
  uint64_t turn = 0;         // grows with each time that a sequence begins to run
  bool resumes = false;      // ran when its group was lost or handed over, and waits to go on
  // Nothing more is told of it, and it is forgotten when its plans in flight were answered.
  bool ended = false;
  bool yields = false;  // in this round of planning: an older one waits for its blocks
  // In flight when a group was lost, and no proof yet that it was not the cause.
  bool suspect = false;
  bool newly_suspect = false;  // by the last loss, which the group's return may explain
  bool struck = false;         // was a suspect already when it was in flight at the last loss
  int32_t proof_length = 0;    // output length that clears a suspect
  std::string numerics_id;     // of the groups that gave its output: the rest must come from such
  // They go where the sequence goes inside this process. Nothing is lost with them.
  std::shared_ptr<Drafter> drafter;
  std::optional<GuessPace> pace;

  // Among those that run, who is served first: the one with the lower priority, else the one that
  // began first. It did so by FairQueue's order.
  std::pair<int32_t, uint64_t> order() const { return {log.request.priority, turn}; }
  // Of the weights that all of it is computed with.
  uint64_t generation() const { return log.request.weights ? log.request.weights->generation : 0; }
  bool in_flight() const { return kv.n_plans > 0; }
  PrefixDomain domain() const;
  // Its plans that draw are followed by a TokenMask.
  bool has_grammar() const { return !log.request.grammar.empty(); }
  // Tokens whose KV is neither there nor on its way, those that plans in flight draw included. The
  // last token of an answer is not fed back. With a grammar, nothing follows a token before it is
  // known: the next one's mask is made from it. Nor does anything follow guesses.
  int32_t n_left() const {
    if (kv.n_guesses > 0 || (kv.n_drawing > 0 && has_grammar())) return 0;
    if (kv.n_drawing > 0 && log.n_output() + kv.n_drawing >= log.request.max_new_tokens) return 0;
    return log.n_known() + kv.n_drawing - kv.n_computed - kv.n_planned;
  }
  // The next plan, if there is one, is of one token. Never where none is drawn.
  bool decoding() const {
    return log.request.max_new_tokens > 0 && kv.n_computed + kv.n_planned > 0 && n_left() <= 1;
  }
};

std::unique_ptr<Sequence> make_sequence(RequestId id, GenerateRequest request);

// Most tokens that are ever in KV: the last token drawn is not fed back.
int32_t max_kv_tokens(const GenerateRequest& request);

// Plans the next n tokens (n <= n_left) and marks them in flight. The block table must reach them.
// A token that a plan in flight draws is named by slot (kTokenFromSlot). `guesses` of what follows
// may come behind the last known token: fewer than it may still draw.
SequencePlan plan_tokens(Sequence& sequence, int32_t n, const std::vector<int32_t>& guesses = {});

// The answer to the oldest plan in flight, which was of n tokens, guesses included: confirms them,
// logs what was drawn, and says what the client is to hear (may be nothing: event_is_empty).
GenerateEvent take_result(Sequence& sequence, int32_t n, SequenceResult&& result,
                          const std::vector<int32_t>& eos_token_ids);

// The same for a sequence that has ended: nothing is heard.
void drop_result(Sequence& sequence, int32_t n);

// The prefix of its tokens that is longer by one block than `parent`, which has n_blocks. They are
// known.
PrefixKey prefix_after(const Sequence& sequence, PrefixId parent, int32_t n_blocks);
// Longer by one block than the cached one it holds.
PrefixKey next_prefix(const Sequence& sequence);

bool event_is_empty(const GenerateEvent& event);

// The event that ends a request.
GenerateEvent final_event(const Sequence& sequence, FinishReason reason, std::string error);

}  // namespace trireme
