#include "coordinator/serving/inference_core.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <future>
#include <utility>

#include "coordinator/serving/core_state.h"
#include "kernels/check.h"

namespace trireme {
namespace {

// Long enough for a busy service thread; past it, the last known state is good enough.
constexpr auto kSnapshotDeadline = std::chrono::milliseconds(200);

// A full queue is full for those who fill it: a tenant that has nothing here is let in, and one
// with less than half of an equal share while there are no more than half as many again.
bool has_room(const CoreGate& gate, const std::string& tenant, int64_t max_live) {
  if (gate.n_live < max_live) return true;
  const auto found = gate.n_live_of.find(tenant);
  const auto n_tenants = static_cast<int64_t>(gate.n_live_of.size());
  if (found == gate.n_live_of.end()) return n_tenants > 0;
  return n_tenants > 1 && gate.n_live < max_live + max_live / 2 &&
         found->second < max_live / (2 * n_tenants);
}

}  // namespace

InferenceCore::InferenceCore(InferenceCoreOptions options, GroupFactory make_group,
                             ServingObserver observer, ReplicaListener listener)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(observer), std::move(listener))) {
  impl_->make_group = std::move(make_group);
  for (const std::unique_ptr<Impl::Replica>& replica : impl_->replicas) {
    replica->group = impl_->make_group(impl_->io, replica->index, impl_->group_events(*replica));
    TRIREME_CHECK(replica->group != nullptr);
  }
}

InferenceCore::~InferenceCore() { stop(); }

void InferenceCore::start() {
  TRIREME_CHECK(!impl_->thread.joinable());
  // Before the thread, so that a stop() meanwhile waits for it.
  if (impl_->begin()) impl_->thread = std::thread([impl = impl_.get()] { impl->serve(); });
}

void InferenceCore::run() {
  if (impl_->begin()) impl_->serve();
}

// False: it was stopped before.
bool InferenceCore::Impl::begin() {
  {
    const std::lock_guard lock(gate.mutex);
    if (gate.stopped) return false;
    gate.running = true;
  }
  boost::asio::post(io, [this] {
    for (const std::unique_ptr<Replica>& replica : replicas) {
      if (!replica->out) replica->group->start();
    }
    settle();
  });
  return true;
}

void InferenceCore::Impl::serve() {
  io.run();
  const std::lock_guard lock(gate.mutex);
  gate.running = false;
  gate.ended.notify_all();
}

Result<RequestId> InferenceCore::submit(GenerateRequest request, EventHandler on_event) {
  Result<RequestId> id = impl_->enter(request);
  if (!id) return id;
  boost::asio::dispatch(
      impl_->io, [impl = impl_.get(), id = *id, at = impl_->now(), request = std::move(request),
                  on_event = std::move(on_event)]() mutable {
        impl->submitted(id, std::move(request), std::move(on_event), at);
      });
  return id;
}

void InferenceCore::cancel(RequestId id, FinishReason counted_as) {
  boost::asio::dispatch(impl_->io,
                        [impl = impl_.get(), id, counted_as] { impl->cancelled(id, counted_as); });
}

std::shared_ptr<const ServedWeights> InferenceCore::weights() const {
  const std::lock_guard lock(impl_->gate.mutex);
  return impl_->gate.weights;
}

void InferenceCore::push(WeightsFile file, PushListener push_listener) {
  boost::asio::post(impl_->io, [impl = impl_.get(), file = std::move(file),
                                push_listener = std::move(push_listener)]() mutable {
    impl->begin_push(std::move(file), std::move(push_listener));
  });
}

void InferenceCore::refuse_changes(const std::string& why) {
  boost::asio::post(impl_->io, [impl = impl_.get(), why] {
    impl->no_changes = why;
    impl->fail_push(why);
    if (impl->change) impl->end_change(why);
    if (impl->sleeping.phase == SleepPhase::kAsleep) impl->abort_requests(why);
    impl->settle();
  });
}

ServiceStatus InferenceCore::status() const {
  const std::lock_guard lock(impl_->gate.mutex);
  return impl_->gate.status;
}

void InferenceCore::drain(std::function<void()> on_drained) {
  {
    const std::lock_guard lock(impl_->gate.mutex);
    impl_->gate.status.draining = true;
    impl_->gate.status.ready = false;
  }
  boost::asio::post(impl_->io, [impl = impl_.get(), on_drained = std::move(on_drained)]() mutable {
    impl->on_drained.push_back(std::move(on_drained));
    impl->settle();
  });
}

void InferenceCore::stop() {
  TRIREME_CHECK_MSG(!impl_->io.get_executor().running_in_this_thread(),
                    "the service cannot stop itself");
  {
    std::unique_lock lock(impl_->gate.mutex);
    const bool first = !std::exchange(impl_->gate.stopped, true);
    impl_->gate.status.draining = true;
    impl_->gate.status.ready = false;
    if (!first || !impl_->gate.running) {
      lock.unlock();
      if (impl_->thread.joinable()) impl_->thread.join();
      return;
    }
  }
  const auto stopped = std::make_shared<std::promise<void>>();
  boost::asio::post(impl_->io, [impl = impl_.get(), stopped] {
    impl->end_all("the server is shutting down");
    impl->stop_groups([stopped] { stopped->set_value(); });
  });
  stopped->get_future().wait_for(std::chrono::milliseconds(impl_->options.stop_timeout_ms));
  impl_->io.stop();
  {
    std::unique_lock lock(impl_->gate.mutex);
    impl_->gate.ended.wait(lock, [this] { return !impl_->gate.running; });
  }
  if (impl_->thread.joinable()) impl_->thread.join();
}

std::vector<ReplicaSnapshot> InferenceCore::replicas() const {
  const auto taken = std::make_shared<std::promise<void>>();
  boost::asio::dispatch(impl_->io, [impl = impl_.get(), taken] {
    std::vector<ReplicaSnapshot> now = impl->snapshot();
    {
      const std::lock_guard lock(impl->gate.mutex);
      impl->gate.replicas = std::move(now);
    }
    taken->set_value();
  });
  bool stopped = false;
  {
    const std::lock_guard lock(impl_->gate.mutex);
    stopped = impl_->gate.stopped;
  }
  if (!stopped) taken->get_future().wait_for(kSnapshotDeadline);
  const std::lock_guard lock(impl_->gate.mutex);
  return impl_->gate.replicas;
}

// Counts the request in, or says why not.
Result<RequestId> InferenceCore::Impl::enter(const GenerateRequest& request) {
  const std::lock_guard lock(gate.mutex);
  if (gate.status.draining)
    return Error{"the server is shutting down and takes no new requests", "draining"};
  if (!gate.status.alive) return Error{gate.status.problem, "unavailable"};
  if (gate.status.sleep == SleepPhase::kAsleep && !gate.keeps_requests)
    return Error{gate.status.problem, "sleeping"};
  if (std::optional<Error> error = Scheduler::refuse(options.scheduler, gate.kv_blocks, request))
    return *std::move(error);
  if (!has_room(gate, request.tenant, options.max_waiting + gate.n_slots))
    return Error{fmt::format("{} requests run or wait already, which is the limit; try again later",
                             gate.n_live),
                 "queue"};
  ++gate.n_live;
  ++gate.n_live_of[request.tenant];
  return ++gate.last_id;
}

void InferenceCore::Impl::submitted(RequestId id, GenerateRequest&& request, EventHandler&& handler,
                                    TimePoint at) {
  const auto n_prompt = static_cast<int32_t>(request.prompt_ids.size());
  records.emplace(id, std::make_shared<Record>(Record{.handler = std::move(handler),
                                                      .replica = nullptr,
                                                      .times = RequestTimes(at, n_prompt),
                                                      .numerics_told = false,
                                                      .tenant = request.tenant}));
  if (request.weights == nullptr) request.weights = weights;
  if (is_closed()) {
    abort(id, "the server was put to sleep");
  } else if (ended_because.empty()) {
    std::unique_ptr<Sequence> sequence = make_sequence(id, std::move(request));
    Replica* replica = choose(*sequence, nullptr);
    place(std::move(sequence), replica);
  } else {
    end_with_error(id);
  }
  // Not at once: requests that come together share the first plan, and a caller on this thread
  // knows the id before the first event.
  settle_soon();
}

void InferenceCore::Impl::cancelled(RequestId id, FinishReason counted_as) {
  const auto found = records.find(id);
  if (found == records.end()) return;
  const std::shared_ptr<Record> record = found->second;
  if (record->replica != nullptr) record->replica->scheduler.cancel(id);
  record->times.finished(now(), counted_as, observer);
  forget(id);
  settle_soon();
}

void InferenceCore::Impl::end_all(const std::string& error) {
  ended_because = error;
  no_changes = error;
  fail_push(error);
  if (change) end_change(error);
  tell_all(sleeping.sleepers, error);
  tell_all(sleeping.wakers, error);
  for (const auto& [id, record] : records) {
    if (record->replica != nullptr) record->replica->scheduler.cancel(id);
    end_with_error(id);
  }
  settle();
}

void InferenceCore::Impl::end_with_error(RequestId id) {
  GenerateEvent event;
  event.finish = FinishReason::kError;
  event.error = ended_because;
  events.push_back({id, std::move(event)});
}

void InferenceCore::Impl::stop_groups(std::function<void()> on_stopped) {
  const auto n_left = std::make_shared<size_t>(replicas.size());
  const auto done = [n_left, on_stopped = std::move(on_stopped)] {
    if (--*n_left == 0) on_stopped();
  };
  for (const std::unique_ptr<Replica>& replica : replicas) replica->group->stop(done);
}

}  // namespace trireme
