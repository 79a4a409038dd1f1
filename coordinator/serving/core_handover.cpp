// The service between two coordinators.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <future>
#include <map>
#include <thread>

#include "coordinator/handover/serving_state.h"
#include "coordinator/serving/core_state.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr std::chrono::milliseconds kPoll{1};

}  // namespace

void InferenceCore::on_service(const std::function<void()>& task) {
  std::promise<void> done;
  boost::asio::post(impl_->io, [&task, &done] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

// Asks `done` on the service's thread until it says so. Why it never will, or "".
std::string InferenceCore::wait_held(std::chrono::milliseconds deadline,
                                     const std::function<bool()>& done) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  for (;;) {
    std::string problem;
    bool is_done = false;
    on_service([&] {
      if (impl_->old_weights) {
        problem = "requests still run on the weights before the last push (" +
                  impl_->old_weights->id + "): try again when they have ended";
      }
      if (impl_->sleeping.phase != SleepPhase::kAwake)
        problem = "it sleeps, or is on the way there or back: wake it up first (POST /wake_up)";
      if (impl_->change) problem = "a replica joins or leaves: try again when it has";
      for (const auto& replica : impl_->replicas) {
        if (problem.empty() && !replica->out) problem = replica->group->handover_problem();
      }
      if (problem.empty()) is_done = done();
    });
    if (!problem.empty() || is_done) return problem;
    if (std::chrono::steady_clock::now() >= end)
      return "the ranks were not done with their steps in time";
    std::this_thread::sleep_for(kPoll);
  }
}

std::string InferenceCore::hold_plans(std::chrono::milliseconds deadline) {
  return wait_held(deadline, [this] {
    impl_->holding = true;
    return std::all_of(impl_->replicas.begin(), impl_->replicas.end(), [](const auto& replica) {
      return replica->scheduler.n_plans_in_flight() == 0;
    });
  });
}

std::string InferenceCore::hold_groups(std::chrono::milliseconds deadline) {
  on_service([this] {
    for (const auto& replica : impl_->replicas) replica->group->hold();
  });
  return wait_held(deadline, [this] {
    return std::all_of(impl_->replicas.begin(), impl_->replicas.end(),
                       [](const auto& replica) { return replica->group->is_held(); });
  });
}

void InferenceCore::go_on() {
  on_service([this] {
    impl_->holding = false;
    for (const auto& replica : impl_->replicas) replica->group->go_on();
    impl_->settle();
  });
}

std::optional<CoreState> InferenceCore::state() {
  TRIREME_CHECK_MSG(!impl_->push, "one command at a time");
  CoreState state;
  state.weights = impl_->weights_file;
  state.weights_before = impl_->weights->before;
  for (const auto& replica : impl_->replicas) {
    if (!replica->out && !replica->group->handover_problem().empty()) return std::nullopt;
    replica->scheduler.rest();
    state.replicas.push_back({.scheduler = replica->scheduler.state(),
                              .group = replica->group->state(),
                              .numerics_id = replica->numerics_id,
                              .out = replica->out});
  }
  for (const auto& [id, record] : impl_->records) {
    state.requests.push_back({.id = id,
                              .replica = record->replica == nullptr ? -1 : record->replica->index,
                              .numerics_told = record->numerics_told,
                              .moments = record->times.moments()});
  }
  const std::lock_guard lock(impl_->gate.mutex);
  state.last_id = impl_->gate.last_id;
  return state;
}

void InferenceCore::restore(CoreState&& state) {
  TRIREME_CHECK(state.replicas.size() == impl_->replicas.size());
  auto weights = std::make_shared<ServedWeights>(*impl_->weights);
  weights->before = std::move(state.weights_before);
  impl_->weights = std::move(weights);
  std::map<RequestId, std::string> tenants;
  for (ReplicaState& replica : state.replicas) {
    for (Sequence& sequence : replica.scheduler.sequences) {
      sequence.log.request.weights = impl_->weights;
      tenants[sequence.id] = sequence.log.request.tenant;
    }
  }
  for (size_t i = 0; i < state.replicas.size(); ++i) {
    impl_->replicas[i]->scheduler.restore(std::move(state.replicas[i].scheduler));
    impl_->replicas[i]->numerics_id = state.replicas[i].numerics_id;
    impl_->replicas[i]->out = state.replicas[i].out;
  }
  for (const RequestState& request : state.requests) {
    Impl::Replica* replica = request.replica < 0
                                 ? nullptr
                                 : impl_->replicas.at(static_cast<size_t>(request.replica)).get();
    impl_->records.emplace(request.id, std::make_shared<Impl::Record>(
                                           Impl::Record{.handler = nullptr,
                                                        .replica = replica,
                                                        .times = RequestTimes(request.moments),
                                                        .numerics_told = request.numerics_told,
                                                        .tenant = tenants[request.id]}));
  }
  const std::lock_guard lock(impl_->gate.mutex);
  impl_->gate.weights = impl_->weights;
  impl_->gate.last_id = state.last_id;
  impl_->gate.n_live = static_cast<int64_t>(state.requests.size());
  for (const RequestState& request : state.requests) ++impl_->gate.n_live_of[tenants[request.id]];
}

bool InferenceCore::listen(RequestId id, EventHandler on_event) {
  const auto found = impl_->records.find(id);
  if (found == impl_->records.end()) return false;
  found->second->handler = std::move(on_event);
  return true;
}

void InferenceCore::cancel_unheard() {
  std::vector<RequestId> unheard;
  for (const auto& [id, record] : impl_->records) {
    if (!record->handler) unheard.push_back(id);
  }
  for (const RequestId id : unheard) cancel(id, FinishReason::kCancelled);
}

}  // namespace trireme
