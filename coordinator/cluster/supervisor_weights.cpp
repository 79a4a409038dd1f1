// The supervisor's part in a change of weights: one group's share of the first phase, and what its
// launches load.
#include <fmt/format.h>

#include <algorithm>

#include "coordinator/cluster/supervisor.h"
#include "kernels/check.h"

namespace trireme {
namespace {

using Kind = SupervisorAction::Kind;

}  // namespace

SupervisorAction Supervisor::order(WeightsOrder::Kind kind, const WeightsFile& file) const {
  SupervisorAction send = action(Kind::kSendWeights);
  send.order = {.kind = kind, .file = file};
  return send;
}

SupervisorActions Supervisor::prepare(int64_t now_ms, const WeightsFile& file) {
  TRIREME_CHECK(!preparing_ && weights_.size() < kMaxGenerations);
  if (state_ != State::kServing) return {};
  preparing_ = file;
  preparation_deadline_ms_ = now_ms + spec_.deadlines.push_ms;
  for (Rank& rank : ranks_) rank.prepared = false;
  return {order(WeightsOrder::Kind::kPrepare, file)};
}

SupervisorActions Supervisor::on_prepared(int64_t now_ms, uint64_t epoch, int rank,
                                          const WeightsPrepared& prepared) {
  on_heard(now_ms, epoch, rank);
  if (!is_live(epoch) || !preparing_ || prepared.generation != preparing_->generation) return {};
  Rank& r = ranks_[static_cast<size_t>(rank)];
  if (!prepared.failure.empty())
    return end_preparation(fmt::format("{}: {}", rank_name(rank), prepared.failure));
  if (prepared.fingerprint != preparing_->fingerprint) {
    return end_preparation(fmt::format(
        "{} has weights {:016x} at {}, not {:016x}: give every host "
        "the same file",
        rank_name(rank), prepared.fingerprint, preparing_->path, preparing_->fingerprint));
  }
  if (prepared.numerics_id != r.numerics_id) {
    return end_preparation(
        fmt::format("{} would compute as {}, not {}: pack the model with the "
                    "weight type that is served",
                    rank_name(rank), prepared.numerics_id, r.numerics_id));
  }
  r.prepared = true;
  const bool all =
      std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& each) { return each.prepared; });
  return all ? end_preparation("") : SupervisorActions{};
}

SupervisorActions Supervisor::watch_preparation(int64_t now_ms) {
  if (now_ms < preparation_deadline_ms_) return {};
  return end_preparation(
      fmt::format("{} did not have the new weights ready within {:.1f} s: check the disk that "
                  "holds {}, or raise push_ms",
                  name_ranks([](const Rank& rank) { return !rank.prepared; }),
                  spec_.deadlines.push_ms / 1000.0, preparing_->path));
}

SupervisorActions Supervisor::end_preparation(const std::string& failure) {
  SupervisorAction report = action(Kind::kReportPrepared);
  report.order.file = *preparing_;
  report.text = failure;
  preparing_.reset();
  return {report};
}

SupervisorActions Supervisor::commit(const WeightsFile& file) {
  TRIREME_CHECK(!preparing_ && weights_.size() < kMaxGenerations);
  weights_.push_back(file);
  if (state_ != State::kServing) return {};
  return {order(WeightsOrder::Kind::kCommit, {.generation = file.generation})};
}

SupervisorActions Supervisor::drop(uint64_t generation) {
  if (preparing_ && preparing_->generation == generation) preparing_.reset();
  std::erase_if(weights_, [&](const WeightsFile& file) { return file.generation == generation; });
  if (state_ != State::kServing) return {};
  return {order(WeightsOrder::Kind::kDrop, {.generation = generation})};
}

}  // namespace trireme
