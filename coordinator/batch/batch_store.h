#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/batch/batch_key.h"
#include "kernels/result.h"

namespace trireme {

constexpr uint64_t kMaxUploadBytes = 512U << 20;
constexpr int64_t kMaxStoredFiles = 10000;
constexpr int64_t kMaxOpenBatches = 100;  // that have not ended
constexpr int64_t kBatchWindow_s = 24 * 3600;
constexpr int64_t kFileRetention_s = 30 * 24 * 3600;  // and of batches, after their creation

struct BatchStoreOptions {
  std::filesystem::path folder;
  int64_t max_bytes = int64_t{10} << 30;  // of all files; then uploads are refused
};

// A file of a client, or of a batch's answers.
struct StoredFile {
  std::string id;
  std::string key_name;  // of the API key that it belongs to
  std::string filename;
  std::string purpose;  // "batch" or "batch_output"
  int64_t n_bytes = 0;
  int64_t created = 0;  // seconds since 1970, as all times here
  std::string sha256;
};

enum class BatchStatus : uint8_t {
  kValidating,
  kFailed,  // its input is no good
  kInProgress,
  kFinalizing,
  kCompleted,
  kExpired,
  kCancelling,
  kCancelled,
};
const char* batch_status_name(BatchStatus status);

struct StoredBatch {
  std::string id;
  std::string key_name;
  std::string endpoint;
  std::string input_file_id;
  std::string metadata;  // JSON: an object of strings, or null
  BatchStatus status = BatchStatus::kValidating;
  std::string output_file_id;  // empty: none
  std::string error_file_id;
  std::string error;  // one line, when failed
  int64_t created = 0;
  int64_t in_progress_at = 0;  // 0: it never was, as below
  int64_t finalizing_at = 0;
  int64_t ended_at = 0;  // completed, failed, expired or cancelled
  int64_t cancelling_at = 0;
  int64_t n_total = 0;  // lines
  int64_t n_completed = 0;
  int64_t n_failed = 0;

  bool has_ended() const { return ended_at != 0; }
  int64_t expires_at() const { return created + kBatchWindow_s; }
};

// A page of a list.
struct StorePage {
  std::string key_name;  // whose; with `everybody`, of no matter
  bool everybody = false;
  std::string after;  // an id; empty: from the beginning
  int64_t limit = 20;
  bool newest_first = true;
  std::string purpose;  // of files; empty: any
};

// The files and batches of a server, in a folder with a database: they outlive a kill of it.
// Bounds: kMaxStoredFiles, kMaxOpenBatches and the options'. Thread-safe. Members throw
// std::runtime_error where the disk fails.
class BatchStore {
 public:
  // Throws EnvironmentError. Removes what a store before it left half done.
  explicit BatchStore(BatchStoreOptions options);
  ~BatchStore();
  BatchStore(const BatchStore&) = delete;
  BatchStore& operator=(const BatchStore&) = delete;

  // A file that is being written; gone with this, unless it was kept.
  class NewFile {
   public:
    NewFile(BatchStore& store, std::string id);
    ~NewFile();
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;

    void write(std::string_view bytes);
    int64_t n_bytes() const { return n_bytes_; }
    // From now on it is a file of the store. Of `file`, id, size and hash are filled in.
    StoredFile keep(StoredFile file);

   private:
    BatchStore& store_;
    const std::string id_;
    const std::filesystem::path path_;
    int fd_ = -1;
    int64_t n_bytes_ = 0;
    Sha256 hash_;
  };

  // Why no file can be added now, or nothing.
  std::optional<Error> full() const;
  // Takes the place of a file of that id, when it is kept.
  std::unique_ptr<NewFile> new_file(const std::string& id);

  std::optional<StoredFile> find_file(const std::string& id) const;
  std::vector<StoredFile> list_files(const StorePage& page) const;
  // False: a batch that has not ended reads it.
  bool remove_file(const std::string& id);
  std::filesystem::path path_of_file(const std::string& id) const;

  // An error when there are too many.
  Result<StoredBatch> add_batch(StoredBatch batch);
  std::optional<StoredBatch> find_batch(const std::string& id) const;
  std::vector<StoredBatch> list_batches(const StorePage& page) const;
  // Of those that have not ended, the oldest.
  std::optional<StoredBatch> next_batch() const;
  // Changes it by `change`, unless it has ended; gives it as it is then.
  std::optional<StoredBatch> update_batch(const std::string& id,
                                          const std::function<void(StoredBatch&)>& change);
  // Where its answers are written until it ends.
  std::filesystem::path path_of_run(const std::string& batch_id) const;
  // Removes files and ended batches that are older than they may be.
  void sweep();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
