#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace trireme {

// 32 random hexadecimal digits from the system.
std::string random_secret();

// A new folder under TMPDIR (/tmp) that only this user can read; removed with all that is in it.
class TemporaryFolder {
 public:
  TemporaryFolder();  // throws EnvironmentError
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// The running program's own file.
std::filesystem::path own_executable();

// The first address of this host that is not loopback; "127.0.0.1" when it has none.
std::string first_address();

uint64_t memory_bytes();

}  // namespace trireme
