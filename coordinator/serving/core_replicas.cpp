// Replicas that join and leave while the service goes on.
#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "coordinator/serving/core_state.h"
#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

constexpr std::chrono::milliseconds kLeavingPoll{20};
constexpr size_t kMostReplicas = 64;

}  // namespace

void InferenceCore::add_replica(bool anew, ReplicaHandler on_end) {
  boost::asio::post(impl_->io, [impl = impl_.get(), anew, on_end = std::move(on_end)]() mutable {
    impl->begin_join(anew, std::move(on_end));
  });
}

void InferenceCore::remove_replica(int replica, std::chrono::milliseconds patience,
                                   ReplicaHandler on_end) {
  boost::asio::post(impl_->io,
                    [impl = impl_.get(), replica, patience, on_end = std::move(on_end)]() mutable {
                      impl->begin_leaving(replica, patience, std::move(on_end));
                    });
}

std::string InferenceCore::Impl::why_no_change() const {
  if (!no_changes.empty()) return no_changes;
  if (holding) return "the server is being upgraded; try again when it has been";
  if (sleeping.phase != SleepPhase::kAwake) return "the server sleeps; wake it up first";
  if (push) return "new weights are being pushed; try again when they are in use";
  if (change) return "another replica joins or leaves; try again when it has";
  return "";
}

void InferenceCore::Impl::begin_join(bool anew, ReplicaHandler on_end) {
  std::string problem_now = why_no_change();
  // Those of the present weights are all that a new group loads.
  if (problem_now.empty() && old_weights) {
    problem_now = fmt::format(
        "requests still run on the weights before the last push ({}); try again when they have "
        "ended",
        old_weights->id);
  }
  if (!problem_now.empty()) return on_end(-1, problem_now);
  Replica* replica = nullptr;
  try {
    replica = &free_replica(anew);
  } catch (const EnvironmentError& error) {
    return on_end(-1, error.what());
  }
  change = Change{.replica = replica, .deadline = {}, .ending = false, .on_end = std::move(on_end)};
  replica->out = false;
  if (listener.on_joining) listener.on_joining(replica->index);
  replica->group->start();
  settle();
}

// One that has left, or a new one.
InferenceCore::Impl::Replica& InferenceCore::Impl::free_replica(bool anew) {
  for (const std::unique_ptr<Replica>& replica : replicas) {
    if (anew || !replica->out) continue;
    if (const std::string why = replica->group->restart_problem(); !why.empty())
      throw EnvironmentError(why);
    return *replica;
  }
  if (replicas.size() == kMostReplicas) {
    throw EnvironmentError(
        fmt::format("there are {} replicas, which is the most there can be", kMostReplicas));
  }
  auto replica = std::make_unique<Replica>(options.scheduler);
  replica->index = static_cast<int>(replicas.size());
  replica->group = make_group(io, replica->index, group_events(*replica));
  if (weights_file.generation != options.weights.generation) {
    replica->group->commit(weights_file);
    replica->group->drop(options.weights.generation);
  }
  replicas.push_back(std::move(replica));
  return *replicas.back();
}

std::string InferenceCore::Impl::why_not_leave(int index) const {
  const bool known = index >= 0 && static_cast<size_t>(index) < replicas.size() &&
                     !replicas[static_cast<size_t>(index)]->out;
  if (!known) return fmt::format("there is no replica {}", index);
  const bool any_other = std::any_of(replicas.begin(), replicas.end(), [&](const auto& each) {
    return each->index != index && each->in_use() && each->scheduler.serving();
  });
  return any_other ? "" : "no other replica serves; add one first, or end the server";
}

void InferenceCore::Impl::begin_leaving(int index, std::chrono::milliseconds patience,
                                        ReplicaHandler on_end) {
  std::string problem_now = why_no_change();
  if (problem_now.empty()) problem_now = why_not_leave(index);
  if (!problem_now.empty()) return on_end(index, problem_now);
  Replica& replica = *replicas[static_cast<size_t>(index)];
  replica.leaving = true;
  change = Change{.replica = &replica,
                  .deadline = now() + patience,
                  .ending = false,
                  .on_end = std::move(on_end)};
  watch_leaving();
  settle();
}

// Whether the change that is under way has come to its end.
void InferenceCore::Impl::watch_change() {
  if (!change || change->ending || change->replica->leaving) return;
  if (change->replica->scheduler.serving()) return end_change("");
  if (change->replica->broken) end_ranks(problem);
}

void InferenceCore::Impl::watch_leaving() {
  if (!change || change->ending) return;
  // What was preempted waits again.
  rehome(*change->replica);
  if (change->replica->load() == 0 || now() >= change->deadline) {
    end_ranks("");
    return settle();
  }
  change_timer.expires_after(kLeavingPoll);
  change_timer.async_wait([this](const boost::system::error_code& error) {
    if (!error) watch_leaving();
  });
}

// Of the replica that changes, which is out then; what it still has goes elsewhere or ends.
void InferenceCore::Impl::end_ranks(const std::string& failure) {
  Replica& replica = *change->replica;
  change->ending = true;
  replica.times.lost(now());
  if (replica.scheduler.serving()) replica.scheduler.group_lost(/*wanted=*/true);
  rehome(replica);
  for (Sequence* sequence : replica.scheduler.waiting())
    place(replica.scheduler.take(sequence->id), nullptr);
  replica.group->stop([this, &replica, failure] {
    replica.leaving = false;
    replica.broken = false;
    replica.out = true;
    if (listener.on_left) listener.on_left(replica.index);
    if (change) end_change(failure);
    settle();
  });
}

void InferenceCore::Impl::end_change(const std::string& failure) {
  const Change ended = *std::exchange(change, std::nullopt);
  change_timer.cancel();
  ended.on_end(ended.replica->index, failure);
}

}  // namespace trireme
