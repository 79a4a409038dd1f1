// Which replica a sequence goes to.
#include <algorithm>
#include <tuple>
#include <utility>

#include "coordinator/serving/core_state.h"

namespace trireme {
namespace {

// What a sequence beside it costs a newcomer, in prompt tokens: so much must a cached prefix save
// for each sequence that the replica has more than another. Work that goes where the prefix is
// slows all that is there, at every token.
constexpr int64_t kTokensPerSequence = 256;

std::string other_numerics(const Sequence& sequence) {
  if (sequence.numerics_id.empty()) return "";
  return ": its tokens so far are of numerics " + sequence.numerics_id +
         ", and others would not continue them; send it again";
}

// What it would have to wait for there: its own tokens that are not cached, those ahead of it, and
// the sequences beside it.
int64_t tokens_to_wait_for(const Scheduler& scheduler, const Sequence& sequence, bool at_home) {
  const int64_t n_own = sequence.log.n_known();
  int64_t n_sequences = scheduler.n_running() + scheduler.n_waiting();
  int64_t n_ahead = scheduler.n_prompt_tokens_left();
  if (at_home) {  // it is one of those that wait
    --n_sequences;
    n_ahead -= n_own;
  }
  return n_own - scheduler.n_cached(sequence) + n_ahead + kTokensPerSequence * n_sequences;
}

}  // namespace

bool InferenceCore::Impl::may_go_on(const Replica& replica, const Sequence& sequence,
                                    const Replica* home) const {
  if (!replica.in_use()) return false;
  // Whether it is to blame for two losses shows when its group is back.
  if (sequence.struck && &replica != home) return false;
  // Tokens given are never contradicted: only the same numerics may add to them. Whether a group
  // that has not served yet has them is asked again when it serves.
  const bool known = !sequence.numerics_id.empty() && !replica.numerics_id.empty();
  if (known && sequence.numerics_id != replica.numerics_id) return false;
  return !Scheduler::refuse(options.scheduler, replica.scheduler.n_blocks(), sequence.log.request);
}

// Where a sequence goes: it stays where its KV is, if that serves, else to the one that it has
// least to wait for among those that serve, with a free slot if there is any, else it stays at
// home, else to one that will serve. One that leaves has those alone that no other may go on with.
// Null: none can ever go on with it.
InferenceCore::Impl::Replica* InferenceCore::Impl::choose(const Sequence& sequence, Replica* home) {
  const bool has_kv = !sequence.kv.blocks.empty();
  std::vector<Replica*> able;
  for (const std::unique_ptr<Replica>& replica : replicas) {
    if (!replica->leaving && may_go_on(*replica, sequence, home)) able.push_back(replica.get());
  }
  if (able.empty() && home != nullptr && may_go_on(*home, sequence, home)) return home;
  if (able.size() < 2) return able.empty() ? nullptr : able.front();
  const auto rank = [&](const Replica& replica) {
    const bool at_home = &replica == home;
    const int distance =
        replica.scheduler.serving() ? (at_home && has_kv ? 0 : 1) : (at_home ? 2 : 3);
    const int32_t n_others = replica.load() - (at_home ? 1 : 0);
    return std::tuple(distance, n_others >= options.scheduler.max_slots,
                      tokens_to_wait_for(replica.scheduler, sequence, at_home));
  };
  Replica* best = able.front();
  auto least = rank(*best);
  for (auto next = able.begin() + 1; next != able.end(); ++next) {
    if (auto its = rank(**next); its < least) {
      best = *next;
      least = its;
    }
  }
  return best;
}

void InferenceCore::Impl::place(std::unique_ptr<Sequence> sequence, Replica* replica) {
  const RequestId id = sequence->id;
  records.at(id)->replica = replica;
  if (replica != nullptr) {
    replica->scheduler.add(std::move(sequence), events);
    return;
  }
  const bool all_broken =
      std::none_of(replicas.begin(), replicas.end(), [](const auto& r) { return r->in_use(); });
  events.push_back(
      {id, final_event(*sequence, FinishReason::kError,
                       all_broken ? problem
                                  : "no group is left that can go on with this request" +
                                        other_numerics(*sequence))});
}

// Gives each of a replica's waiting sequences the best place there is now.
void InferenceCore::Impl::rehome(Replica& from) {
  for (Sequence* sequence : from.scheduler.waiting()) {
    if (sequence->numerics_id.empty() && sequence->log.n_output() > 0)
      sequence->numerics_id = from.numerics_id;
    Replica* to = choose(*sequence, &from);
    if (to != &from) place(from.scheduler.take(sequence->id), to);
  }
}

}  // namespace trireme
