#include "coordinator/batch/batch_service.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <utility>

#include "coordinator/batch/batch_line.h"
#include "kernels/check.h"

namespace trireme {
namespace {

constexpr std::chrono::seconds kIdleWait{60};   // nothing new comes without a wake
constexpr std::chrono::seconds kRepairWait{5};  // for a disk with room, or a group that answers
constexpr int64_t kSweepEvery_s = 3600;
constexpr int32_t kLinesPerSlot = 8;  // held: answers that are ready wait for longer ones
// A batch's own files: not those of another time that it was ended at.
constexpr int64_t kOutputFile = -1;
constexpr int64_t kErrorFile = -2;

StoredFile describe(const StoredBatch& batch, const char* what, int64_t now) {
  return {.key_name = batch.key_name,
          .filename = batch.id + "_" + what + ".jsonl",
          .purpose = "batch_output",
          .created = now};
}

}  // namespace

int32_t batch_allowance(int32_t n_slots, int32_t n_all, int32_t n_computing) {
  if (n_all <= n_computing) return std::max(1, n_slots / 2);
  const int32_t n_free = n_slots - n_all;
  return std::min(std::max(1, n_slots / 4), n_computing + n_free - 1);
}

BatchService::BatchService(BatchStore& store, std::shared_ptr<ApiContext> context, int32_t n_slots)
    : store_(store), context_(std::move(context)), n_slots_(n_slots) {
  TRIREME_CHECK(n_slots_ > 0);
}

BatchService::~BatchService() { stop(); }

void BatchService::start() {
  TRIREME_CHECK(!thread_.joinable());
  stopping_ = false;
  thread_ = std::thread([this] { run(); });
}

void BatchService::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    if (current_ != nullptr) current_->stop();
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

Result<StoredBatch> BatchService::add(StoredBatch batch) {
  Result<StoredBatch> added = store_.add_batch(std::move(batch));
  const std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_all();
  return added;
}

std::optional<StoredBatch> BatchService::cancel(const std::string& id) {
  std::optional<StoredBatch> batch = store_.update_batch(id, [](StoredBatch& b) {
    b.status = BatchStatus::kCancelling;
    if (b.cancelling_at == 0) b.cancelling_at = std::time(nullptr);
  });
  const std::lock_guard lock(mutex_);
  if (current_ != nullptr && current_id_ == id) current_->stop();
  return batch;
}

void BatchService::run() {
  for (bool go_on = true; go_on;) {
    try {
      if (const int64_t now = std::time(nullptr); now - swept_at_ >= kSweepEvery_s) {
        store_.sweep();
        swept_at_ = now;
      }
      if (const std::optional<StoredBatch> batch = store_.next_batch()) {
        process(*batch);
        report("");
        go_on = !is_stopping();
      } else {
        go_on = wait(Wait::kForWork);
      }
    } catch (const std::exception& error) {
      report(error.what());
      go_on = wait(Wait::kForRepair);
    }
  }
}

// A problem is told when it begins and when it ends, not as long as it lasts.
void BatchService::report(const std::string& problem) {
  if (problem == last_problem_) return;
  last_problem_ = problem;
  if (problem.empty()) return spdlog::info("batches go on");
  spdlog::error("batches wait: {}", problem);
}

// False: the service is to stop.
bool BatchService::wait(Wait what) {
  std::unique_lock lock(mutex_);
  const bool for_work = what == Wait::kForWork;
  changed_.wait_for(lock, for_work ? kIdleWait : kRepairWait,
                    [&] { return stopping_ || (for_work && woken_); });
  woken_ = false;
  return !stopping_;
}

bool BatchService::is_stopping() {
  const std::lock_guard lock(mutex_);
  return stopping_;
}

void BatchService::process(StoredBatch batch) {
  const std::optional<StoredFile> input = store_.find_file(batch.input_file_id);
  std::error_code unknown;
  if (!input || (!std::filesystem::exists(store_.path_of_file(input->id), unknown) && !unknown))
    return fail(batch, "the input file is gone");
  const BatchKey key(input->sha256, batch.id);
  if (batch.status == BatchStatus::kCancelling) return finish(batch, key, BatchStatus::kCancelled);
  if (batch.status == BatchStatus::kValidating && !validate(batch)) return;
  answer(batch, key);
}

bool BatchService::validate(StoredBatch& batch) {
  LineReader lines(store_.path_of_file(batch.input_file_id), kMaxBatchLineBytes);
  LineReader::Line line;
  int64_t n = 0;
  for (; lines.next(&line); ++n) {
    if (is_stopping()) return false;
  }
  if (n == 0) {
    fail(batch, "the input file has no requests");
    return false;
  }
  const auto now = store_.update_batch(batch.id, [n](StoredBatch& b) {
    b.n_total = n;
    b.in_progress_at = std::time(nullptr);
    if (b.status == BatchStatus::kValidating) b.status = BatchStatus::kInProgress;
  });
  batch = *now;
  return true;
}

void BatchService::answer(const StoredBatch& batch, const BatchKey& key) {
  std::optional<BatchRun> run;
  try {
    run.emplace(
        context_,
        BatchRunOptions{
            .input = store_.path_of_file(batch.input_file_id),
            .output = store_.path_of_run(batch.id),
            .key = key,
            .endpoint = batch.endpoint,
            .key_name = batch.key_name,
            .created = batch.created,
            .expires = batch.expires_at(),
            .max_lines = kLinesPerSlot * n_slots_,
            .allowance = [this](int32_t n_computing) { return allowance(n_computing); },
            .on_progress = [&](const BatchProgress& now) { note_progress(batch.id, now); }});
  } catch (const ForeignOutput& error) {  // nothing that a kill leaves
    return fail(batch, error.what());
  }
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    current_ = &*run;
    current_id_ = batch.id;
  }
  BatchRun::End end = BatchRun::End::kStopped;
  std::exception_ptr failure;
  try {
    // Cancelled before it was known here?
    if (store_.find_batch(batch.id)->status == BatchStatus::kCancelling) run->stop();
    end = run->run();
  } catch (...) {
    failure = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    current_ = nullptr;
  }
  run.reset();
  if (failure) std::rethrow_exception(failure);
  switch (end) {
    case BatchRun::End::kDone: return finish(batch, key, BatchStatus::kCompleted);
    case BatchRun::End::kExpired: return finish(batch, key, BatchStatus::kExpired);
    case BatchRun::End::kStopped: return;  // the next turn, or server, sees why
    case BatchRun::End::kUnavailable: throw std::runtime_error("no group can answer");
  }
}

void BatchService::note_progress(const std::string& id, const BatchProgress& progress) {
  const int64_t now = std::time(nullptr);
  if (std::exchange(noted_at_, now) == now) return;
  store_.update_batch(id, [&](StoredBatch& b) {
    b.n_completed = progress.n_done - progress.n_failed;
    b.n_failed = progress.n_failed;
  });
}

void BatchService::fail(const StoredBatch& batch, const std::string& error) {
  store_.update_batch(batch.id, [&](StoredBatch& b) {
    b.status = BatchStatus::kFailed;
    b.error = error;
    b.ended_at = std::time(nullptr);
  });
}

// Sorts the answers into the file of those and the file of errors. Killed or stopped meanwhile, it
// is done again: the files have the same ids then.
void BatchService::finish(const StoredBatch& batch, const BatchKey& key, BatchStatus status) {
  const int64_t now = std::time(nullptr);
  store_.update_batch(batch.id, [&](StoredBatch& b) {
    if (b.status == BatchStatus::kInProgress) b.status = BatchStatus::kFinalizing;
    if (b.finalizing_at == 0) b.finalizing_at = now;
  });
  const auto output = store_.new_file(key.name("file-", kOutputFile));
  const auto errors = store_.new_file(key.name("file-", kErrorFile));
  int64_t n_completed = 0;
  int64_t n_failed = 0;
  std::ifstream lines(store_.path_of_run(batch.id), std::ios::binary);
  for (std::string line; std::getline(lines, line) && !lines.eof();) {
    if (is_stopping()) return;
    const bool success = is_success_line(line);
    ++(success ? n_completed : n_failed);
    (success ? output : errors)->write(line + "\n");
  }
  std::string output_id;
  std::string error_id;
  if (n_completed > 0) output_id = output->keep(describe(batch, "output", now)).id;
  if (n_failed > 0) error_id = errors->keep(describe(batch, "error", now)).id;
  store_.update_batch(batch.id, [&](StoredBatch& b) {
    b.status = status;
    b.output_file_id = output_id;
    b.error_file_id = error_id;
    b.n_completed = n_completed;
    b.n_failed = n_failed;
    b.ended_at = now;
  });
  std::error_code ignored;
  std::filesystem::remove(store_.path_of_run(batch.id), ignored);
}

int32_t BatchService::allowance(int32_t n_computing) const {
  const ServiceStatus status = context_->status();
  if (!status.ready || status.draining) return 0;
  return batch_allowance(n_slots_, status.n_running + status.n_waiting, n_computing);
}

}  // namespace trireme
