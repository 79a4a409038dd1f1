// The supervisor between two coordinators of one group.
#include "coordinator/cluster/supervisor.h"
#include "coordinator/handover/group_state.h"
#include "kernels/check.h"

namespace trireme {

SupervisorState Supervisor::state() const {
  TRIREME_CHECK(state_ == State::kServing && n_plans_in_flight_ == 0);
  SupervisorState state;
  for (const Rank& rank : ranks_) {
    state.ranks.push_back(
        {.info = rank.info, .kv_blocks = rank.kv_blocks, .numerics_id = rank.numerics_id});
  }
  state.losses_ms.assign(losses_ms_.begin(), losses_ms_.end());
  state.hung = hung_;
  return state;
}

SupervisorActions Supervisor::resume(int64_t now_ms, uint64_t epoch, const SupervisorState& state) {
  TRIREME_CHECK(state_ == State::kStopped && state.ranks.size() == ranks_.size());
  epoch_ = epoch;
  state_ = State::kServing;
  ever_served_ = true;
  launched_weights_ = weights_;
  regrouping_.on_launch(now_ms);
  regrouping_.on_serving(now_ms);
  hung_ = state.hung;
  losses_ms_.assign(state.losses_ms.begin(), state.losses_ms.end());
  for (size_t r = 0; r < ranks_.size(); ++r) {
    Rank& rank = ranks_[r];
    rank.info = state.ranks[r].info;
    rank.kv_blocks = state.ranks[r].kv_blocks;
    rank.numerics_id = state.ranks[r].numerics_id;
    rank.connected = true;
    rank.ready = true;
  }
  forgive_all(now_ms);
  if (!regrouping_.begin_knocks(now_ms)) return {};
  return {action(SupervisorAction::Kind::kKnock)};
}

void Supervisor::forgive_all(int64_t now_ms) {
  last_timer_ms_ = now_ms;
  last_progress_ms_ = now_ms;
  for (Rank& rank : ranks_) forgive_silence(now_ms, rank);
}

}  // namespace trireme
