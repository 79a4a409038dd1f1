// The scheduler between two coordinators of one group.

#include <utility>

#include "coordinator/handover/serving_state.h"
#include "coordinator/serving/scheduler.h"
#include "kernels/check.h"

namespace trireme {

void Scheduler::rest() {
  TRIREME_CHECK_MSG(in_flight_.empty(), "a plan is in flight");
  all_wait_again();
}

SchedulerState Scheduler::state() const {
  TRIREME_CHECK_MSG(running_.empty(), "a sequence runs");
  SchedulerState state{.epoch = epoch_,
                       .last_step_id = last_step_id_,
                       .n_blocks = blocks_.n_blocks(),
                       .sequences = {},
                       .cached = blocks_.cached()};
  for (const Sequence* sequence : waiting_.all()) {
    Sequence& given = state.sequences.emplace_back(*sequence);
    given.tenant = nullptr;  // the next one counts anew
    KvState& kv = given.kv;
    kv.n_prefix_blocks = 0;  // the next one's prefix cache gives numbers of its own
    kv.prefix = kEmptyPrefix;
  }
  return state;
}

void Scheduler::restore(SchedulerState&& state) {
  TRIREME_CHECK(!serving_ && sequences_.empty());
  epoch_ = state.epoch;
  last_step_id_ = state.last_step_id;
  std::vector<int32_t> held;
  for (Sequence& given : state.sequences) {
    held.insert(held.end(), given.kv.blocks.begin(), given.kv.blocks.end());
    n_suspects_ += given.suspect ? 1 : 0;
    ++n_of_[given.generation()];
    const RequestId id = given.id;
    auto sequence = std::make_unique<Sequence>(std::move(given));
    waiting_.join(*sequence);
    waiting_.insert(*sequence);
    const bool is_new = sequences_.emplace(id, std::move(sequence)).second;
    TRIREME_CHECK_MSG(is_new, "a request is there twice");
  }
  blocks_ = BlockManager(state.n_blocks, held, state.cached);
  for (const auto& [id, sequence] : sequences_) publish(*sequence);
}

}  // namespace trireme
