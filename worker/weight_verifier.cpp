#include "worker/weight_verifier.h"

#include <sched.h>

#include <chrono>
#include <utility>

namespace trireme {
namespace {

// Between two pieces while steps are computed: a thousandth of the memory's bandwidth at most.
constexpr int kBusyRestMs = 50;

void yield_to_everybody() {
  const sched_param none{};
  // Where the system refuses, the rests still keep it out of the way.
  (void)sched_setscheduler(0, SCHED_IDLE, &none);
}

}  // namespace

WeightVerifier::WeightVerifier(std::shared_ptr<const PackedModel> file, const ShardPlan& shard,
                               int delay_ms, std::function<void(const std::string&)> on_damage)
    : file_(std::move(file)),
      shard_(shard),
      delay_ms_(delay_ms),
      on_damage_(std::move(on_damage)),
      thread_([this] { run(); }) {}

WeightVerifier::~WeightVerifier() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  thread_.join();
}

void WeightVerifier::run() {
  yield_to_everybody();
  if (!rest(delay_ms_)) return;
  const std::string damage = file_->find_damage(&shard_, [this](uint64_t, uint64_t) {
    return rest(busy_.load(std::memory_order_relaxed) ? kBusyRestMs : 0);
  });
  if (!damage.empty()) on_damage_(damage);
}

bool WeightVerifier::rest(int ms) {
  std::unique_lock lock(mutex_);
  return !stop_.wait_for(lock, std::chrono::milliseconds(ms), [this] { return stopping_; });
}

}  // namespace trireme
