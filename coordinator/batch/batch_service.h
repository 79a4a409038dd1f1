#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "coordinator/batch/batch_run.h"
#include "coordinator/batch/batch_store.h"
#include "coordinator/http/endpoints.h"

namespace trireme {

// How many sequences of batches may be computed at once beside live ones: half of the slots when
// there are none of these, else a quarter, and not the last free one. `n_all`: sequences that run
// or wait, of which `n_computing` are batches'.
int32_t batch_allowance(int32_t n_slots, int32_t n_all, int32_t n_computing);

// Answers a server's batches, one after the other, beside its live requests. Thread-safe.
class BatchService {
 public:
  // `n_slots`: sequences that all replicas compute at once. The store must outlive it.
  BatchService(BatchStore& store, std::shared_ptr<ApiContext> context, int32_t n_slots);
  ~BatchService();  // stops
  BatchService(const BatchService&) = delete;
  BatchService& operator=(const BatchService&) = delete;

  BatchStore& store() const { return store_; }

  void start();
  // Ends the thread, and what it computes; the next start() goes on from what was written.
  // Idempotent.
  void stop();

  Result<StoredBatch> add(StoredBatch batch);
  // As it is then; nothing when there is none.
  std::optional<StoredBatch> cancel(const std::string& id);

 private:
  enum class Wait : uint8_t { kForWork, kForRepair };

  void run();
  bool wait(Wait what);
  bool is_stopping();
  void process(StoredBatch batch);
  bool validate(StoredBatch& batch);
  void answer(const StoredBatch& batch, const BatchKey& key);
  void note_progress(const std::string& id, const BatchProgress& progress);
  void fail(const StoredBatch& batch, const std::string& error);
  void finish(const StoredBatch& batch, const BatchKey& key, BatchStatus status);
  int32_t allowance(int32_t n_computing) const;
  void report(const std::string& problem);

  BatchStore& store_;
  const std::shared_ptr<ApiContext> context_;
  const int32_t n_slots_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;        // under mutex_
  bool woken_ = false;           // under mutex_
  BatchRun* current_ = nullptr;  // under mutex_
  std::string current_id_;       // under mutex_
  std::string last_problem_;
  int64_t noted_at_ = 0;  // seconds since 1970: when progress was
  int64_t swept_at_ = 0;
  std::thread thread_;
};

}  // namespace trireme
