// The scheduler's share-out of slots and KV blocks.

#include <algorithm>
#include <utility>

#include "coordinator/serving/scheduler.h"
#include "kernels/check.h"
#include "kernels/int_math.h"

namespace trireme {
namespace {

int32_t n_blocks_for(int32_t n_tokens) { return div_ceil(n_tokens, kBlockSize); }

int32_t n_held(const Sequence& sequence) { return static_cast<int32_t>(sequence.kv.blocks.size()); }

}  // namespace

double Scheduler::kv_fragmentation() const {
  if (blocks_.n_running() == 0) return 0.0;
  int64_t n_empty = 0;
  for (const auto& [order, sequence] : running_)
    n_empty += std::max(int64_t{n_held(*sequence)} * kBlockSize - sequence->log.n_known(), 0L);
  return static_cast<double>(n_empty) / (static_cast<double>(blocks_.n_running()) * kBlockSize);
}

// Blocks for all that is known, and one more for each running sequence to grow into: a newcomer
// that makes another go back at the next step is work done twice. What waiting sequences hold can
// be had.
bool Scheduler::can_admit(const Sequence& sequence) const {
  if (free_slots_.empty()) return false;
  const int32_t headroom = n_running();
  const int32_t n_wanted = n_blocks_for(sequence.log.n_known()) + headroom;
  const int32_t n_to_be_had = blocks_.n_blocks() - blocks_.n_running();
  if (n_wanted <= n_to_be_had) return true;
  const auto n_shared = std::count_if(
      sequence.kv.blocks.begin(), sequence.kv.blocks.end(),
      [this](int32_t block) { return blocks_.ref_count(block, BlockUser::kRunning) > 0; });
  return n_wanted - static_cast<int32_t>(n_shared) <= n_to_be_had;
}

void Scheduler::admit(Sequence& sequence) {
  count_cached(sequence);
  waiting_.erase(sequence);
  sequence.resumes = false;
  sequence.turn = ++last_turn_;
  for (const int32_t block : sequence.kv.blocks)
    blocks_.pass(block, BlockUser::kWaiting, BlockUser::kRunning);
  running_.emplace(sequence.order(), &sequence);
  ready_.push_back(&sequence);
  sequence.kv.slot = free_slots_.back();
  free_slots_.pop_back();
  const int32_t n_blocks = n_blocks_for(sequence.log.n_known());
  while (n_held(sequence) < n_blocks) {
    while (blocks_.n_unused() == 0) TRIREME_CHECK(take_kept_blocks());
    sequence.kv.blocks.push_back(blocks_.allocate(BlockUser::kRunning));
  }
}

// A block for the sequence's next token, if need be taken from the youngest. False: it has to wait,
// or it was the youngest and is no longer running.
bool Scheduler::reserve_next(Sequence& sequence) {
  const int32_t n_blocks = n_blocks_for(sequence.kv.n_computed + sequence.kv.n_planned + 1);
  if (n_blocks <= n_held(sequence)) return true;
  while (blocks_.n_unused() == 0) {
    if (take_kept_blocks()) continue;
    Sequence& youngest = *running_.rbegin()->second;
    // What is in flight cannot be taken back. When it returns, this one is asked again; unless it
    // is another generation's turn, but within a block's tokens the youngest needs one itself.
    youngest.yields = true;
    if (youngest.in_flight()) return false;
    TRIREME_CHECK_MSG(n_running() > 1, "a sequence alone in the KV pool does not fit");
    preempt(youngest);
    if (&youngest == &sequence) return false;
  }
  sequence.kv.blocks.push_back(blocks_.allocate(BlockUser::kRunning));
  return true;
}

// Blocks for so many tokens behind the next one, as far as blocks are left over: returns how many
// tokens have room.
int32_t Scheduler::reserve_unused(Sequence& sequence, int32_t n_more) {
  if (n_more == 0) return 0;
  const int32_t end = sequence.kv.n_computed + sequence.kv.n_planned + 1;
  while (n_held(sequence) < n_blocks_for(end + n_more) && blocks_.n_unused() > n_running())
    sequence.kv.blocks.push_back(blocks_.allocate(BlockUser::kRunning));
  return std::min(n_more, n_held(sequence) * kBlockSize - end);
}

// Takes from the youngest waiting sequence with blocks; what is not cached is computed again.
// False: no block is held by waiting sequences alone.
bool Scheduler::take_kept_blocks() {
  if (blocks_.n_running() + blocks_.n_unused() == blocks_.n_blocks()) return false;
  Sequence* youngest = waiting_.last_with_blocks();
  TRIREME_CHECK(youngest != nullptr);
  forget_kv(*youngest);
  return true;
}

void Scheduler::preempt(Sequence& sequence) {
  TRIREME_CHECK(!sequence.in_flight());
  wait_again(sequence);
  forget_kv(sequence);
  ++n_preemptions_;
}

// Back to the queue, with the blocks of what results have confirmed: they are as good as ever while
// the ranks' memory is.
void Scheduler::wait_again(Sequence& sequence) {
  leave_slot(sequence);
  const KvState held = std::exchange(sequence.kv, {});
  sequence.kv.n_computed = held.n_computed;
  sequence.kv.n_prefix_blocks = held.n_prefix_blocks;
  sequence.kv.prefix = held.prefix;
  sequence.kv.blocks = held.blocks;
  std::vector<int32_t>& blocks = sequence.kv.blocks;
  while (n_held(sequence) > n_blocks_for(held.n_computed)) {
    blocks_.release(blocks.back(), BlockUser::kRunning);
    blocks.pop_back();
  }
  for (const int32_t block : blocks) blocks_.pass(block, BlockUser::kRunning, BlockUser::kWaiting);
  waiting_.insert(sequence);
}

// Through no fault of theirs: they go on before others begin.
void Scheduler::all_wait_again() {
  while (!running_.empty()) {
    Sequence& sequence = *running_.begin()->second;
    sequence.resumes = true;
    wait_again(sequence);
  }
}

void Scheduler::leave_slot(Sequence& sequence) {
  TRIREME_CHECK(sequence.kv.slot >= 0);
  free_slots_.push_back(std::exchange(sequence.kv.slot, -1));
  running_.erase(sequence.order());
  std::erase(ready_, &sequence);
}

// Of a waiting sequence. Backwards, so that of a cached prefix the end goes first when blocks are
// needed: without what is before it, it could not be found.
void Scheduler::forget_kv(Sequence& sequence) {
  TRIREME_CHECK(sequence.kv.slot < 0);
  std::vector<int32_t>& blocks = sequence.kv.blocks;
  for (; !blocks.empty(); blocks.pop_back()) blocks_.release(blocks.back(), BlockUser::kWaiting);
  sequence.kv = {};
}

}  // namespace trireme
