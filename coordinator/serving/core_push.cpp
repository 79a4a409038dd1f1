// A change of weights over all groups: prepared everywhere, then in use everywhere, or nowhere.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "coordinator/serving/core_state.h"

namespace trireme {
namespace {

constexpr size_t kMaxIdsBefore = 64;
// Requests that were read and not yet submitted hold weights, too, and end without an event here.
constexpr std::chrono::milliseconds kHoldersPoll{100};

}  // namespace

std::string weights_id(uint64_t fingerprint) { return fmt::format("{:016x}", fingerprint); }

// A replica that is given up computes nothing ever again, so it has no say.
std::string InferenceCore::Impl::why_not_push() const {
  if (!no_changes.empty()) return no_changes;
  if (sleeping.phase != SleepPhase::kAwake) return "the server sleeps; wake it up first";
  if (push) return "another push is under way; try again when it has ended";
  if (change) return "a replica joins or leaves; try again when it has";
  if (old_weights) {
    return fmt::format(
        "{} requests still run on the weights before the last push ({}); try again when they have "
        "ended",
        n_requests_of(old_weights->generation), old_weights->id);
  }
  bool any = false;
  for (const std::unique_ptr<Replica>& replica : replicas) {
    if (!replica->in_use()) continue;
    if (!replica->scheduler.serving())
      return fmt::format("replica {} is not serving now; try again when it is", replica->index);
    any = true;
  }
  return any ? "" : "no replica serves";
}

void InferenceCore::Impl::begin_push(WeightsFile file, PushListener push_listener) {
  std::string problem_now = why_not_push();
  if (problem_now.empty() && weights_id(file.fingerprint) == weights->id)
    problem_now = fmt::format("{} is already served: its weights are {}", file.path, weights->id);
  if (!problem_now.empty()) return push_listener.on_end(problem_now, 0);
  file.generation = ++last_generation;
  push = Push{.file = file, .listener = std::move(push_listener)};
  for (const std::unique_ptr<Replica>& replica : replicas) {
    replica->prepared = false;
    replica->preparing_bytes = {};
    if (push && replica->in_use()) replica->group->prepare(file);
  }
}

void InferenceCore::Impl::group_preparing(Replica& replica, uint64_t loaded_bytes,
                                          uint64_t total_bytes) {
  replica.preparing_bytes = {loaded_bytes, total_bytes};
  std::pair<uint64_t, uint64_t> all{};
  for (const std::unique_ptr<Replica>& each : replicas) {
    all.first += each->preparing_bytes.first;
    all.second += each->preparing_bytes.second;
  }
  push->listener.on_progress(all.first, all.second);
}

void InferenceCore::Impl::group_prepared(Replica& replica, uint64_t generation,
                                         const std::string& failure) {
  if (!push || push->file.generation != generation) return;
  if (!failure.empty()) {
    return fail_push(replicas.size() == 1 ? failure
                                          : fmt::format("replica {}, {}", replica.index, failure));
  }
  replica.prepared = true;
  const bool all = std::all_of(replicas.begin(), replicas.end(),
                               [](const auto& each) { return each->prepared || !each->in_use(); });
  if (all) commit_push();
}

void InferenceCore::Impl::commit_push() {
  const Push done = *std::exchange(push, std::nullopt);
  for (const std::unique_ptr<Replica>& replica : replicas) replica->group->commit(done.file);
  auto next = std::make_shared<ServedWeights>(
      ServedWeights{.generation = done.file.generation, .id = weights_id(done.file.fingerprint)});
  next->before = weights->before;
  next->before.push_back(weights->id);
  if (next->before.size() > kMaxIdsBefore) next->before.erase(next->before.begin());
  old_weights = OldWeights{.generation = weights->generation, .id = weights->id, .held = weights};
  {
    const std::lock_guard lock(gate.mutex);
    gate.weights = next;
  }
  weights = std::move(next);
  weights_file = done.file;
  done.listener.on_end("", n_requests_of(old_weights->generation));
  watch_old_weights();
  settle();
}

void InferenceCore::Impl::fail_push(const std::string& why) {
  if (!push) return;
  const Push failed = *std::exchange(push, std::nullopt);
  for (const std::unique_ptr<Replica>& replica : replicas)
    replica->group->drop(failed.file.generation);
  failed.listener.on_end(why, 0);
}

int32_t InferenceCore::Impl::n_requests_of(uint64_t generation) const {
  int32_t n = 0;
  for (const std::unique_ptr<Replica>& replica : replicas) n += replica->scheduler.n_of(generation);
  return n;
}

// Everywhere at once: a sequence may have to move to any replica.
void InferenceCore::Impl::drop_old_weights() {
  if (!old_weights || !old_weights->held.expired()) return;
  const OldWeights dropped = *std::exchange(old_weights, std::nullopt);
  for (const std::unique_ptr<Replica>& replica : replicas) {
    replica->scheduler.forget_generation(dropped.generation);
    replica->group->drop(dropped.generation);
  }
  if (listener.on_weights_dropped) listener.on_weights_dropped(dropped.id);
}

void InferenceCore::Impl::watch_old_weights() {
  if (!old_weights) return;
  old_weights_timer.expires_after(kHoldersPoll);
  old_weights_timer.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    drop_old_weights();
    watch_old_weights();
  });
}

}  // namespace trireme
