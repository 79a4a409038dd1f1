#pragma once

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/control/step_plan.h"
#include "comm/layout.h"
#include "comm/shared_region.h"
#include "model/packed_model.h"
#include "worker/engine.h"

namespace trireme::test {

// Packs a model folder into a file that is removed with the object.
class TemporaryPackedModel {
 public:
  TemporaryPackedModel(const std::filesystem::path& model_folder, WeightFormat format);
  ~TemporaryPackedModel();
  TemporaryPackedModel(const TemporaryPackedModel&) = delete;
  TemporaryPackedModel& operator=(const TemporaryPackedModel&) = delete;
  const std::shared_ptr<const PackedModel>& file() const { return file_; }

 private:
  std::filesystem::path path_;
  std::shared_ptr<const PackedModel> file_;
};

// A whole group in one process: every rank is a thread with the engine and communicators it would
// have as a process.
class ThreadGroup {
 public:
  struct Limits {
    int32_t context_length = 256;
    int32_t max_slots = 8;
    int32_t max_batch_tokens = 64;
    int32_t max_plans_in_flight = 4;
    int32_t kv_blocks = 64;
    int32_t n_threads = 1;
    std::optional<DType> kv_dtype;  // none: what goes with the format
    bool fuse = true;
    std::string kernels;  // empty: the best here
  };

  ThreadGroup(std::shared_ptr<const PackedModel> file, Layout layout, const Limits& limits);
  ~ThreadGroup();
  ThreadGroup(const ThreadGroup&) = delete;
  ThreadGroup& operator=(const ThreadGroup&) = delete;

  // Puts a plan on every rank's queue.
  void send(const StepPlan& plan);
  // Of a sequence of a plan that was or will be sent.
  void send_mask(const TokenMask& mask);
  // Waits for the next answer of any rank.
  StepResult receive();
  // send and receive, for plans that one rank answers.
  StepResult step(const StepPlan& plan) {
    send(plan);
    return receive();
  }

 private:
  void run_rank(int world_rank);
  TokenMask wait_mask(uint64_t step_id, uint64_t request_id);

  std::shared_ptr<const PackedModel> file_;
  Layout layout_;
  Limits limits_;
  SharedRegion region_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<StepPlan>> plans_;  // by world rank
  std::deque<StepResult> results_;
  std::map<std::pair<uint64_t, uint64_t>, TokenMask> masks_;  // by step and request
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace trireme::test
