#include "coordinator/serving/fair_queue.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/check.h"

namespace trireme {
namespace {

std::pair<int32_t, bool> level_of(const Sequence& sequence) {
  return {sequence.log.request.priority, !sequence.resumes};
}

// Within a level.
std::pair<int64_t, RequestId> order(const Sequence& sequence) {
  return {sequence.tenant->n_served, sequence.id};
}

}  // namespace

int64_t FairQueue::least_served() const {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const auto& [name, tenant] : tenants_)
    least = tenant.n_live > 0 ? std::min(least, tenant.n_served) : least;
  return least;
}

void FairQueue::join(Sequence& sequence) {
  TRIREME_CHECK(sequence.tenant == nullptr);
  const auto [place, is_new] = tenants_.try_emplace(sequence.log.request.tenant);
  Tenant& tenant = place->second;
  const bool alone = is_new && tenants_.size() == 1;
  if (tenant.n_live == 0 && !alone) tenant.n_served = std::max(tenant.n_served, least_served());
  ++tenant.n_live;
  sequence.tenant = &tenant;
}

// Forgets whom join() would treat as a new one, so that tenants do not pile up.
void FairQueue::leave(Sequence& sequence) {
  Tenant& tenant = *sequence.tenant;
  sequence.tenant = nullptr;
  if (--tenant.n_live > 0) return;
  const int64_t least = least_served();  // nobody is there: more than any
  std::erase_if(tenants_, [least](const auto& entry) {
    return entry.second.n_live == 0 && entry.second.n_served <= least;
  });
}

void FairQueue::charge(Sequence& sequence, int32_t begin, int32_t end) {
  const int32_t from = std::max(begin, sequence.n_charged);
  if (end <= from) return;
  sequence.tenant->n_served += end - from;
  sequence.n_charged = end;
}

void FairQueue::insert(Sequence& sequence) {
  TRIREME_CHECK(sequence.tenant != nullptr);
  Lane& lane = levels_[level_of(sequence)][sequence.tenant];
  TRIREME_CHECK(lane.emplace(sequence.id, &sequence).second);
  ++n_waiting_;
  n_tokens_ += sequence.log.n_known();
}

void FairQueue::erase(const Sequence& sequence) {
  const auto level = levels_.find(level_of(sequence));
  TRIREME_CHECK(level != levels_.end());
  const auto lane = level->second.find(sequence.tenant);
  TRIREME_CHECK(lane != level->second.end() && lane->second.erase(sequence.id) == 1);
  if (lane->second.empty()) level->second.erase(lane);
  if (level->second.empty()) levels_.erase(level);
  --n_waiting_;
  n_tokens_ -= sequence.log.n_known();
}

Sequence* FairQueue::first() const { return Walk(*this).next(); }

Sequence* FairQueue::last_with_blocks() const {
  Sequence* last = nullptr;
  for (auto level = levels_.rbegin(); level != levels_.rend() && last == nullptr; ++level) {
    for (const auto& [tenant, lane] : level->second) {
      for (const auto& [id, sequence] : lane) {
        if (sequence->kv.blocks.empty()) continue;
        if (last == nullptr || order(*last) < order(*sequence)) last = sequence;
      }
    }
  }
  return last;
}

std::vector<Sequence*> FairQueue::all() const {
  std::vector<Sequence*> all;
  for (const auto& [priority, level] : levels_) {
    for (const auto& [tenant, lane] : level) {
      for (const auto& [id, sequence] : lane) all.push_back(sequence);
    }
  }
  std::sort(all.begin(), all.end(), [](const Sequence* a, const Sequence* b) {
    return std::pair(a->log.request.priority, a->id) < std::pair(b->log.request.priority, b->id);
  });
  return all;
}

FairQueue::Walk::Walk(const FairQueue& queue)
    : level_(queue.levels_.begin()), levels_end_(queue.levels_.end()) {
  enter_level();
}

void FairQueue::Walk::enter_level() {
  if (level_ == levels_end_) return;
  for (const auto& [tenant, lane] : level_->second)
    cursors_.push_back({.at = lane.begin(), .end = lane.end()});
  ++level_;  // now: erasing its last sequence ends a level
}

Sequence* FairQueue::Walk::next() {
  if (cursors_.empty()) enter_level();
  if (cursors_.empty()) return nullptr;
  const auto best = std::min_element(
      cursors_.begin(), cursors_.end(),
      [](const Cursor& a, const Cursor& b) { return order(*a.at->second) < order(*b.at->second); });
  Sequence* sequence = best->at->second;
  // Now, too: erasing its last sequence ends a lane.
  if (++best->at == best->end) {
    *best = cursors_.back();
    cursors_.pop_back();
  }
  return sequence;
}

}  // namespace trireme
