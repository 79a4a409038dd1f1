#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "comm/control/step_plan.h"
#include "comm/layout.h"
#include "coordinator/serving/block_manager.h"
#include "coordinator/serving/fair_queue.h"
#include "coordinator/serving/sequence.h"
#include "kernels/result.h"

namespace trireme {

struct SchedulerState;

// Decoding reads all weights for any number of rows; up to so many add little to that. A plan with
// guesses has no more.
constexpr int32_t kMostRowsWithGuesses = 16;

// Makes the schedule worse on purpose, repeatably, to show that the tokens do not depend on it.
struct TestPerturbation {
  uint64_t seed = 0;                 // 0: none of this
  bool random_chunks = false;        // prefill chunks and decode batches of any size
  bool shuffle_batch = false;        // order of the sequences in a plan
  double preempt_probability = 0.0;  // each time a plan is made, of one running sequence
  bool colliding_prefixes = false;   // their hashes are almost all equal
};

struct SchedulerConfig {
  int32_t max_slots = 8;             // sequences running at once
  int32_t max_batch_tokens = 512;    // tokens in one plan
  int32_t max_prefill_tokens = 512;  // of which beyond one per running sequence: bounds the pause
                                     // that a long prompt brings to the others' streams
  int32_t n_stages = 1;              // of the pipeline: as many plans are in flight
  // Plans made beyond those, before the results that they go on from: no rank waits for the
  // coordinator between two tokens. Where a token stops a sequence, a step of it was in vain.
  int32_t n_plans_ahead = 0;
  int32_t n_ranks = 1;         // all of them answer a traced plan
  int32_t context_length = 0;  // prompt + output at most
  int32_t vocab_size = 0;
  std::vector<int32_t> eos_token_ids;
  bool prefix_cache = true;  // KV blocks are found again by the tokens they were computed from
  // Speculation: what a sequence draws next is guessed and computed with the token before it, at
  // most max_guesses of it and a fair share of kMostRowsWithGuesses.
  DrafterMaker make_drafter;  // null: none
  int32_t max_guesses = 0;
  TestPerturbation perturbation;

  int32_t max_plans_in_flight() const { return n_stages + n_plans_ahead; }
};

struct SequenceEvent {
  RequestId id = 0;
  GenerateEvent event;
};

// What became of a StepResult.
struct StepOutcome {
  bool completed = false;  // false: of an older epoch, or more ranks have to answer
  int32_t n_tokens = 0;    // of the completed plan
};

// Continuous batching for one group: who is in the next plan, with which KV blocks. A state machine
// without clock or socket. Events are appended to `events`; a finish event is a request's last, and
// the scheduler has forgotten it.
//
// Running sequences with one token to compute come first, then running prompts, then waiting ones
// as slots and blocks allow, in the order of FairQueue: priority, fair share, id. When blocks run
// out, the running sequence of the last priority that this order let in last (the "youngest") goes
// back to the queue and is computed again later. Not the one whose tenant was served most by then:
// what each was served changes with every plan, and two would take turns to throw each other out.
// So the first to begin always gets to its end, and who was let in before others stays before them.
//
// A pipeline is kept full by plans of different sequences, by parts of one prompt following each
// other, and by plans ahead: those are of one token a sequence, go on from one plan in flight, and
// are not made while there is a prompt to compute, which would have to wait for them. Nor from a
// plan with a grammar's sequence, or with one that may guess, which cannot go on before the result:
// the others of that plan wait for it, so that all go on in one plan, not in two that take turns.
//
// Blocks whose KV a result has confirmed are cached: a sequence that begins with the same tokens
// goes on behind them, and while another one computes what it begins with, it waits for that.
//
// A plan is of one generation of weights; while there are sequences of two, plans take turns.
class Scheduler {
 public:
  explicit Scheduler(SchedulerConfig config);

  // Why the request can never be served. n_kv_blocks 0: not known yet.
  static std::optional<Error> refuse(const SchedulerConfig& config, int32_t n_kv_blocks,
                                     const GenerateRequest& request);

  // How the ranks of the next group_up are arranged.
  void set_layout(const Layout& layout);

  // The group of `epoch` serves from now on, with so many KV blocks. kv_kept: they hold what the
  // last group's confirmed steps put there, so that nothing of it is computed again; which also
  // says that no rank crashed by its own fault, so nobody is to blame for the loss. Else a suspect
  // that was in flight at the loss ends with kError. So do waiting requests that can never fit.
  void group_up(uint64_t epoch, int32_t n_kv_blocks, bool kv_kept,
                std::vector<SequenceEvent>& events);

  // Every plan in flight is void. Running sequences wait again, to go on first, with their
  // output kept, and what they have in KV if the next group still has it; returns how many. A
  // sequence in flight becomes a suspect: it is tried again with nothing else in flight until it
  // has proven itself, unless the loss was `wanted`.
  int32_t group_lost(bool wanted = false);

  // The request was let through by refuse(). It may come from another scheduler (take).
  void add(std::unique_ptr<Sequence> sequence, std::vector<SequenceEvent>& events);

  // No event after this. Its blocks are free at once, or when the plans it is in were answered.
  // False: it is not here.
  bool cancel(RequestId id);
  // The same, but it ends with this error, which is its own fault, if it is here.
  void fail(RequestId id, const std::string& error, std::vector<SequenceEvent>& events);

  // The next plan; none while the group is down, enough plans are in flight, or all there is to do
  // waits for one of them. The epoch and step_id are filled in.
  std::optional<StepPlan> plan_step();

  StepOutcome apply(StepResult&& result, std::vector<SequenceEvent>& events);

  // For a handover (coordinator/handover), with no plan in flight: running sequences wait again,
  // with what they have in KV; nothing is forgotten.
  void rest();
  SchedulerState state() const;
  // Of a new scheduler: as another one was that rested, and whose group is still to come up.
  void restore(SchedulerState&& state);

  // From now on a plan takes at most so many tokens of prompts while there are streams, that is
  // sequences of which a next token is to come.
  void limit_prompts(int32_t n_tokens) { prompt_limit_ = n_tokens; }

  // So many of its tokens could be had from the prefix cache now. Asking changes nothing.
  int32_t n_cached(const Sequence& sequence) const;
  // Known tokens that are to be computed before every sequence decodes.
  int64_t n_prompt_tokens_left() const;

  // No sequence of this generation of weights will come any more.
  void forget_generation(uint64_t generation) { blocks_.forget_generation(generation); }

  // By priority, oldest first.
  std::vector<Sequence*> waiting() const { return waiting_.all(); }
  // One of them, to be added elsewhere.
  std::unique_ptr<Sequence> take(RequestId id);

  bool serving() const { return serving_; }
  uint64_t epoch() const { return epoch_; }
  int32_t n_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t n_waiting() const { return waiting_.size(); }
  int32_t n_plans_in_flight() const { return static_cast<int32_t>(in_flight_.size()); }
  // While down: of the last group, 0 before the first.
  int32_t n_blocks() const { return blocks_.n_blocks(); }
  // That no sequence holds; what is cached in them can be forgotten.
  int32_t n_unheld_blocks() const { return blocks_.n_unused(); }
  int32_t n_free_blocks() const { return blocks_.n_free(); }
  int32_t n_running_blocks() const { return blocks_.n_running(); }
  // Of the running sequences' blocks, the part of their places for tokens that no token is known
  // for, 0 to 1.
  double kv_fragmentation() const;
  // Sequences of a generation of weights.
  int32_t n_of(uint64_t generation) const;
  uint64_t n_preemptions() const { return n_preemptions_; }
  const PrefixCacheCounts& prefix_cache_counts() const { return prefix_counts_; }
  const GuessCounts& guess_counts() const { return guess_counts_; }
  // Of a sequence that is here.
  const TokenLog& log(RequestId id) const { return sequences_.at(id)->log; }
  const SchedulerConfig& config() const { return config_; }

 private:
  struct PlanPart {
    Sequence* sequence = nullptr;
    int32_t n_tokens = 0;
  };
  struct PlanInFlight {
    uint64_t step_id = 0;
    std::vector<PlanPart> parts;  // in the plan's order
    int32_t n_tokens = 0;
    bool trace = false;
    std::vector<StepResult> results;  // so far: one, or one of each rank when traced
  };

  void perturb();
  Sequence* next_waiting() const;
  int32_t n_decoding() const;
  bool prompts_wait() const;
  std::vector<uint64_t> generations_in_turn() const;
  void plan_generation(StepPlan& plan, bool pipeline_is_full);
  bool takes(const StepPlan& plan, const Sequence& sequence) const;
  void plan_running(StepPlan& plan);
  void plan_prompts(StepPlan& plan);
  void plan_ahead(StepPlan& plan);
  int32_t fair_share() const;
  void plan_one_token(StepPlan& plan, const std::vector<Sequence*>& candidates);
  void plan_suspect(StepPlan& plan);
  void append(StepPlan& plan, Sequence& sequence, int32_t n,
              const std::vector<int32_t>& guesses = {});
  int32_t n_guesses_each(int32_t n_sequences) const;
  std::vector<int32_t> guess(Sequence& sequence, int32_t most);
  void launch(StepPlan& plan);
  int32_t prefill_budget(const StepPlan& plan) const;
  int32_t pipeline_chunk() const;
  int32_t perturbed(int32_t n);
  bool holds_back();

  bool can_admit(const Sequence& sequence) const;
  void admit(Sequence& sequence);
  bool reserve_next(Sequence& sequence);
  int32_t reserve_unused(Sequence& sequence, int32_t n_more);
  bool take_kept_blocks();
  void preempt(Sequence& sequence);
  void wait_again(Sequence& sequence);
  void all_wait_again();
  void leave_slot(Sequence& sequence);
  void forget_kv(Sequence& sequence);

  BlockManager new_blocks(int32_t n_blocks) const;
  void attach_cached(Sequence& sequence);
  bool waits_for_prefix(const Sequence& sequence) const;
  void publish(Sequence& sequence);
  void count_cached(Sequence& sequence);

  void complete(PlanInFlight&& step, std::vector<SequenceEvent>& events);
  void judge_suspects(bool kv_kept, std::vector<SequenceEvent>& events);
  void clear_suspect(Sequence& sequence);
  void settle_suspect(Sequence& sequence);
  void end(Sequence& sequence);
  void remove(Sequence& sequence);
  void leave_generation(const Sequence& sequence);

  SchedulerConfig config_;
  BlockManager blocks_{0};
  std::vector<int32_t> free_slots_;
  bool serving_ = false;
  uint64_t epoch_ = 0;
  uint64_t last_step_id_ = 0;

  std::unordered_map<RequestId, std::unique_ptr<Sequence>> sequences_;
  using Order = std::pair<int32_t, uint64_t>;  // Sequence::order()
  FairQueue waiting_;
  std::map<Order, Sequence*> running_;  // has a slot
  std::deque<Sequence*> ready_;         // running and not in flight, longest idle first
  std::deque<PlanInFlight> in_flight_;
  uint64_t last_turn_ = 0;
  int32_t prompt_limit_ = std::numeric_limits<int32_t>::max();

  std::map<uint64_t, int32_t> n_of_;  // sequences by generation; none without any
  uint64_t last_generation_ = 0;      // of the last plan, suspects' aside

  int32_t n_suspects_ = 0;
  bool suspect_had_turn_ = false;
  uint64_t n_preemptions_ = 0;
  PrefixCacheCounts prefix_counts_;
  GuessCounts guess_counts_;
  uint64_t random_state_ = 0;
};

}  // namespace trireme
