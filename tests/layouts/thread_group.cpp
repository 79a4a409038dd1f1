#include "tests/layouts/thread_group.h"

#include <unistd.h>

#include <atomic>
#include <chrono>

#include "comm/control/world_shape.h"

namespace trireme::test {
namespace {

WorldShape shape_of(const PackedModel& file, Layout layout, const ThreadGroup::Limits& limits) {
  JobSpec job;
  job.layout = layout;
  job.max_batch_tokens = limits.max_batch_tokens;
  job.hidden_size = file.config().hidden_size;
  return world_shape(job);
}

}  // namespace

TemporaryPackedModel::TemporaryPackedModel(const std::filesystem::path& model_folder,
                                           WeightFormat format) {
  static std::atomic<int> count{0};
  path_ = std::filesystem::temp_directory_path() /
          ("trireme-test-" + std::to_string(getpid()) + "-" + std::to_string(count++) + ".packed");
  pack_model(model_folder, path_, format, [](uint64_t, uint64_t) {});
  file_ = PackedModel::open(path_);
}

TemporaryPackedModel::~TemporaryPackedModel() {
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

ThreadGroup::ThreadGroup(std::shared_ptr<const PackedModel> file, Layout layout,
                         const Limits& limits)
    : file_(std::move(file)),
      layout_(layout),
      limits_(limits),
      region_(SharedRegion::create(shape_of(*file_, layout, limits))),
      plans_(static_cast<size_t>(layout.n_ranks())) {
  for (int rank = 0; rank < layout.n_ranks(); ++rank) {
    threads_.emplace_back([this, rank] { run_rank(rank); });
  }
}

ThreadGroup::~ThreadGroup() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadGroup::send(const StepPlan& plan) {
  {
    const std::lock_guard lock(mutex_);
    for (auto& queue : plans_) queue.push_back(plan);
  }
  changed_.notify_all();
}

StepResult ThreadGroup::receive() {
  std::unique_lock lock(mutex_);
  const bool answered =
      changed_.wait_for(lock, std::chrono::seconds(120), [this] { return !results_.empty(); });
  TRIREME_CHECK_MSG(answered, "no rank answered a plan");
  StepResult result = std::move(results_.front());
  results_.pop_front();
  return result;
}

void ThreadGroup::send_mask(const TokenMask& mask) {
  {
    const std::lock_guard lock(mutex_);
    masks_[{mask.step_id, mask.request_id}] = mask;
  }
  changed_.notify_all();
}

TokenMask ThreadGroup::wait_mask(uint64_t step_id, uint64_t request_id) {
  const std::pair key(step_id, request_id);
  std::unique_lock lock(mutex_);
  const bool came =
      changed_.wait_for(lock, std::chrono::seconds(120), [&] { return masks_.count(key) > 0; });
  TRIREME_CHECK_MSG(came, "no mask for a plan that says masked");
  return std::move(masks_.extract(key).mapped());
}

void ThreadGroup::run_rank(int world_rank) {
  set_float_mode();
  const Result<ShardPlan> shard = make_shard_plan(file_->config(), layout_, world_rank);
  TRIREME_CHECK(shard.ok());
  Engine engine({.config = file_->config(),
                 .shard = *shard,
                 .weights = map_stage_weights(file_, *shard, [](uint64_t, uint64_t) {}),
                 .format = file_->format(),
                 .kernels = cpu_kernels(limits_.kernels),
                 .comms = make_region_comms(region_, world_rank, {}),
                 .n_threads = limits_.n_threads,
                 .context_length = limits_.context_length,
                 .max_slots = limits_.max_slots,
                 .max_batch_tokens = limits_.max_batch_tokens,
                 .max_plans_in_flight = limits_.max_plans_in_flight,
                 .kv_blocks = limits_.kv_blocks,
                 .kv_dtype = limits_.kv_dtype.value_or(KvPool::default_dtype(file_->format())),
                 .fuse = limits_.fuse,
                 .wait_mask = [this](uint64_t step_id, uint64_t request_id) {
                   return wait_mask(step_id, request_id);
                 }});
  StepResult result;
  for (;;) {
    StepPlan plan;
    {
      std::unique_lock lock(mutex_);
      auto& queue = plans_[static_cast<size_t>(world_rank)];
      changed_.wait(lock, [&] { return ending_ || !queue.empty(); });
      if (queue.empty()) return;
      plan = std::move(queue.front());
      queue.pop_front();
    }
    if (engine.step(plan, result)) {
      const std::lock_guard lock(mutex_);
      results_.push_back(result);
      changed_.notify_all();
    }
  }
}

}  // namespace trireme::test
