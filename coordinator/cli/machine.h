#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "comm/control/unique_fd.h"

namespace trireme {

// 32 random hexadecimal digits from the system.
std::string random_secret();

// Where run folders are made: TMPDIR, or /tmp.
std::filesystem::path run_folder_base();

// A new folder under TMPDIR (/tmp) that only this user can read; removed with all that is in it, if
// not by its destructor then by the next process of this user that makes one.
class TemporaryFolder {
 public:
  TemporaryFolder();  // throws EnvironmentError
  // One that another coordinator made in this process, and its lock.
  TemporaryFolder(std::filesystem::path path, UniqueFd lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  int lock() const { return lock_.get(); }

 private:
  std::filesystem::path path_;
  UniqueFd lock_;  // of the folder: a process that lives holds it
};

// The running program's own file.
std::filesystem::path own_executable();

// The first address of this host that is not loopback; "127.0.0.1" when it has none.
std::string first_address();

uint64_t memory_bytes();

}  // namespace trireme
