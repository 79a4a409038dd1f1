// The service's thread: events of the groups in, plans and events of requests out.
#include "coordinator/serving/core_state.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <functional>
#include <utility>

#include "kernels/check.h"

namespace trireme {
namespace {

std::string rest_problem(SleepPhase phase) {
  return phase == SleepPhase::kSettling
             ? "the server is going to sleep and waits for the requests that run"
             : "the server sleeps: wake it up with POST /wake_up";
}

// What was counted since `told`.
template <typename Counts>
void tell_more(const Counts& now, Counts& told, const std::function<void(const Counts&)>& tell) {
  const Counts last = std::exchange(told, now);
  if (now != last && tell) tell(now - last);
}

}  // namespace

InferenceCore::Impl::Impl(InferenceCoreOptions core_options, ServingObserver serving_observer,
                          ReplicaListener replica_listener)
    : options(std::move(core_options)),
      observer(std::move(serving_observer)),
      listener(std::move(replica_listener)) {
  TRIREME_CHECK(options.n_replicas > 0 && options.max_waiting >= 0);
  for (int i = 0; i < options.n_replicas; ++i) {
    replicas.push_back(std::make_unique<Replica>(options.scheduler));
    replicas.back()->index = i;
  }
  weights_file = options.weights;
  last_generation = weights_file.generation;
  weights = std::make_shared<ServedWeights>(
      ServedWeights{.generation = last_generation, .id = weights_id(options.weights.fingerprint)});
  gate.weights = weights;
  gate.n_slots = static_cast<int64_t>(options.n_replicas) * options.scheduler.max_slots;
  gate.status.context_length = options.scheduler.context_length;
  gate.status.vocab_size = options.scheduler.vocab_size;
  gate.status.problem = problem;
}

Group::Events InferenceCore::Impl::group_events(Replica& replica) {
  Group::Events group_events;
  group_events.on_serving = [this, &replica](const GroupCapacity& capacity) {
    group_serving(replica, capacity);
  };
  group_events.on_result = [this, &replica](StepResult&& result) {
    group_result(replica, std::move(result));
  };
  group_events.on_lost = [this, &replica](const std::string& cause, const std::string& detail) {
    group_lost(replica, cause, detail);
  };
  group_events.on_broken = [this, &replica](const std::string& error) {
    group_broken(replica, error);
  };
  group_events.on_prepared = [this, &replica](uint64_t generation, const std::string& failure) {
    group_prepared(replica, generation, failure);
  };
  group_events.on_loading = [this, &replica](uint64_t loaded_bytes, uint64_t total_bytes) {
    if (push) return group_preparing(replica, loaded_bytes, total_bytes);
    replica.loaded_bytes = loaded_bytes;
    replica.total_bytes = total_bytes;
    if (listener.on_loading) listener.on_loading(replica.index, loaded_bytes, total_bytes);
  };
  return group_events;
}

void InferenceCore::Impl::group_serving(Replica& replica, const GroupCapacity& capacity) {
  replica.numerics_id = capacity.numerics_id;
  replica.layout = capacity.layout;
  replica.scheduler.set_layout(capacity.layout);
  replica.scheduler.group_up(replica.group->epoch(), capacity.kv_blocks, capacity.kv_kept, events);
  if (options.itl_target_ms > 0) {
    // A stream's next token comes when as many steps have ended as the pipeline has stages.
    replica.chunks.emplace(static_cast<double>(options.itl_target_ms) / capacity.layout.pp,
                           options.scheduler.max_prefill_tokens);
    replica.scheduler.limit_prompts(replica.chunks->n_tokens());
  }
  if (listener.on_serving) listener.on_serving(replica.index, capacity);
  // Whoever waits for a group that is down can go on here. Those that waited for this one too, if
  // it came back with other numerics and there is one that still has theirs.
  for (const std::unique_ptr<Replica>& other : replicas)
    if (!other->scheduler.serving()) rehome(*other);
  rehome(replica);
  settle();
  watch_waking();
  watch_change();
}

void InferenceCore::Impl::group_result(Replica& replica, StepResult&& result) {
  const uint64_t step_id = result.step_id;
  const StepOutcome outcome = replica.scheduler.apply(std::move(result), events);
  if (outcome.completed) {
    if (observer.on_iteration) observer.on_iteration(outcome.n_tokens);
    const StepTimes::Step step = replica.times.answered(now(), step_id, replica.layout.pp);
    if (observer.on_step) observer.on_step(step.phase(), step.ms * 1e-3);
    if (replica.chunks) {
      replica.chunks->observe(step.n_prompt_tokens, step.ms);
      replica.scheduler.limit_prompts(replica.chunks->n_tokens());
    }
  }
  settle();
}

void InferenceCore::Impl::group_lost(Replica& replica, const std::string& cause,
                                     const std::string& detail) {
  problem = (cause == kRegroupCause ? "the ranks are being started again: "
                                    : "the ranks were lost and are being started again: ") +
            detail;
  fail_push("replica " + std::to_string(replica.index) + " was lost meanwhile: " + detail);
  replica.times.lost(now());
  if (replica.scheduler.serving()) {
    const int32_t n_replayed = replica.scheduler.group_lost(cause == kRegroupCause);
    if (n_replayed > 0 && observer.on_replayed) observer.on_replayed(n_replayed);
  }
  if (observer.on_group_lost) observer.on_group_lost(cause);
  if (listener.on_lost) listener.on_lost(replica.index, cause, detail);
  rehome(replica);
  settle();
}

void InferenceCore::Impl::group_broken(Replica& replica, const std::string& error) {
  problem = error;
  replica.broken = true;
  fail_push("replica " + std::to_string(replica.index) + " was lost meanwhile: " + error);
  replica.times.lost(now());
  if (replica.scheduler.serving()) replica.scheduler.group_lost();
  if (listener.on_broken) listener.on_broken(replica.index, error);
  publish();  // whose request ends now can see why
  rehome(replica);
  settle();
  watch_waking();
  watch_change();
}

// Makes all the plans that can be made and tells all there is to tell. Handlers and groups may call
// back in here; the outermost call goes on until nothing is left.
void InferenceCore::Impl::settle() {
  if (std::exchange(settling, true)) {
    settle_again = true;
    return;
  }
  do {
    settle_again = false;
    // The ranks first: they work while clients are told.
    for (const std::unique_ptr<Replica>& replica : replicas) pump(*replica);
    for (SequenceEvent& event : std::exchange(events, {})) deliver(std::move(event));
    drop_old_weights();
  } while (settle_again || !events.empty());
  publish();
  settling = false;
  tell_drained();
}

void InferenceCore::Impl::settle_soon() {
  if (std::exchange(settle_posted, true)) return;
  boost::asio::post(io, [this] {
    settle_posted = false;
    settle();
  });
}

void InferenceCore::Impl::pump(Replica& replica) {
  while (!holding) {
    std::optional<StepPlan> plan = replica.scheduler.plan_step();
    if (!plan) break;
    const TimePoint at = now();
    replica.times.sent(at, *plan);
    for (const SequencePlan& part : plan->sequences) {
      if (part.reset_slot) records.at(part.request_id)->times.planned(at, observer);
    }
    std::vector<MaskMaker::Order> orders = order_masks(replica, *plan);
    replica.group->send(std::move(*plan));
    for (MaskMaker::Order& order : orders) {
      masks.make(std::move(order), [this, &replica](TokenMask&& mask, const std::string& failure) {
        mask_made(replica, mask, failure);
      });
    }
  }
  tell_counts(replica);
}

void InferenceCore::Impl::tell_counts(Replica& replica) {
  for (; replica.n_preemptions_told < replica.scheduler.n_preemptions();
       ++replica.n_preemptions_told) {
    if (observer.on_preemption) observer.on_preemption();
  }
  tell_more(replica.scheduler.prefix_cache_counts(), replica.prefix_counts_told,
            observer.on_prefix_cache);
  tell_more(replica.scheduler.guess_counts(), replica.guess_counts_told, observer.on_guesses);
}

// Before the plan is sent, which may end the group that its sequences are in.
std::vector<MaskMaker::Order> InferenceCore::Impl::order_masks(Replica& replica,
                                                               const StepPlan& plan) {
  std::vector<MaskMaker::Order> orders;
  for (const SequencePlan& part : plan.sequences) {
    if (!part.masked) continue;
    orders.push_back(masks.order(records.at(part.request_id)->guided, plan, part.request_id,
                                 replica.scheduler.log(part.request_id)));
  }
  return orders;
}

// The rank waits for it, whatever has become of the request meanwhile.
void InferenceCore::Impl::mask_made(Replica& replica, const TokenMask& mask,
                                    const std::string& failure) {
  const auto found = records.find(mask.request_id);
  const bool ends = !failure.empty() && found != records.end();
  if (ends && found->second->replica != nullptr)
    found->second->replica->scheduler.fail(mask.request_id, failure, events);
  replica.group->send_mask(mask);
  if (ends) settle();
}

void InferenceCore::Impl::deliver(SequenceEvent&& event) {
  const auto found = records.find(event.id);
  if (found == records.end()) return;  // cancelled by an earlier handler
  const std::shared_ptr<Record> record = found->second;
  const TimePoint at = now();
  for (size_t i = 0; i < event.event.token_ids.size(); ++i) record->times.got_token(at, observer);
  if (record->replica != nullptr && !std::exchange(record->numerics_told, true))
    event.event.numerics_id = record->replica->numerics_id;
  if (event.event.finish != FinishReason::kNone) {
    record->times.finished(at, event.event.finish, observer);
    forget(event.id);
  }
  record->handler(std::move(event.event));
}

void InferenceCore::Impl::forget(RequestId id) {
  const std::string tenant = records.at(id)->tenant;
  records.erase(id);
  const std::lock_guard lock(gate.mutex);
  --gate.n_live;
  const auto of_tenant = gate.n_live_of.find(tenant);
  if (--of_tenant->second == 0) gate.n_live_of.erase(of_tenant);
}

void InferenceCore::Impl::publish() {
  ServiceStatus now;
  int32_t largest = 0;
  bool all_known = true;
  int64_t n_slots = 0;
  now.alive = false;
  for (const std::unique_ptr<Replica>& replica : replicas) {
    const Scheduler& scheduler = replica->scheduler;
    now.n_running += scheduler.n_running();
    now.n_waiting += scheduler.n_waiting();
    if (replica->out) continue;
    n_slots += replica->leaving ? 0 : options.scheduler.max_slots;
    if (replica->broken) continue;
    now.alive = true;
    all_known &= scheduler.n_blocks() > 0;
    largest = std::max(largest, scheduler.n_blocks());
    if (!scheduler.serving()) continue;
    now.ready = true;
    now.n_kv_blocks += scheduler.n_blocks();
    now.n_running_kv_blocks += scheduler.n_running_blocks();
    now.n_free_kv_blocks += scheduler.n_free_blocks();
  }
  if (now.n_kv_blocks > 0)
    now.kv_usage = static_cast<double>(now.n_running_kv_blocks) / now.n_kv_blocks;
  now.context_length = options.scheduler.context_length;
  now.vocab_size = options.scheduler.vocab_size;

  const bool rests =
      sleeping.phase == SleepPhase::kSettling || sleeping.phase == SleepPhase::kAsleep;
  now.sleep = sleeping.phase;
  now.ready &= !rests;

  const std::lock_guard lock(gate.mutex);
  now.draining = gate.status.draining;
  if (!now.ready) now.problem = rests && now.alive ? rest_problem(sleeping.phase) : problem;
  if (now.draining && now.alive) now.problem = "the server is shutting down";
  now.ready &= !now.draining;
  gate.status = std::move(now);
  gate.kv_blocks = all_known ? largest : 0;
  gate.n_slots = n_slots;
}

void InferenceCore::Impl::tell_drained() {
  if (on_drained.empty()) return;
  {
    const std::lock_guard lock(gate.mutex);
    if (gate.n_live > 0) return;
  }
  for (const std::function<void()>& callback : std::exchange(on_drained, {})) callback();
}

std::vector<ReplicaSnapshot> InferenceCore::Impl::snapshot() const {
  std::vector<ReplicaSnapshot> all;
  for (const std::unique_ptr<Replica>& replica : replicas) {
    if (replica->out) continue;
    ReplicaSnapshot one;
    one.replica = replica->index;
    one.leaving = replica->leaving;
    one.status = replica->group->status();
    one.epoch = replica->group->epoch();
    one.layout = replica->layout;
    one.n_ranks_alive = replica->group->n_ranks_alive();
    one.ranks = replica->group->ranks();
    one.n_running = replica->scheduler.n_running();
    one.n_waiting = replica->scheduler.n_waiting();
    one.n_kv_blocks = replica->scheduler.n_blocks();
    one.n_unheld_kv_blocks = replica->scheduler.n_unheld_blocks();
    one.kv_fragmentation = replica->scheduler.kv_fragmentation();
    one.loaded_bytes = replica->loaded_bytes;
    one.total_bytes = replica->total_bytes;
    one.numerics_id = replica->numerics_id;
    one.working_us = static_cast<uint64_t>(replica->times.working(now()).count());
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace trireme
