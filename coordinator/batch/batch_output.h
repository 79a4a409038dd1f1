#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "comm/control/unique_fd.h"
#include "coordinator/batch/batch_key.h"
#include "kernels/result.h"

namespace trireme {

// The file holds something else than answers of the batch.
class ForeignOutput : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

// The file that a batch's answers are appended to, one line each, in the order of the input. What
// is in it after a kill at any time tells how far the batch had come.
class BatchOutput {
 public:
  // Opens or makes it, and cuts a last line that has no end. Throws EnvironmentError: it cannot be
  // written, another process writes it, or (ForeignOutput) it holds something else.
  BatchOutput(std::filesystem::path path, const BatchKey& key);

  int64_t n_lines() const { return n_lines_; }
  int64_t n_failed() const { return n_failed_; }  // of those, without an answer of status 200
  // Whole lines. Throws EnvironmentError; then some of the last line may be there, and the file is
  // to be opened again.
  void append(std::string_view lines);
  // Until it is on the disk. Throws EnvironmentError.
  void sync();

 private:
  void recover(const BatchKey& key);
  [[noreturn]] void fail(const char* what) const;

  const std::filesystem::path path_;
  UniqueFd fd_;
  int64_t n_lines_ = 0;
  int64_t n_failed_ = 0;
};

// What the names of a batch's lines begin with.
inline constexpr const char* kBatchLinePrefix = "batch_req_";

}  // namespace trireme
