#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace trireme {

// A file that appears under its name only when it is complete: written beside it under a temporary
// name, flushed to the disk, then renamed. Without commit() nothing is left behind.
class AtomicFile {
 public:
  // Creates the temporary file, with room for `size_bytes` set aside where the file system can.
  // Throws EnvironmentError, a full disk named as such.
  AtomicFile(const std::filesystem::path& path, uint64_t size_bytes);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write_at(uint64_t offset, std::span<const std::byte> bytes);  // throws EnvironmentError
  void commit();                                                     // throws EnvironmentError

  // What every temporary name of `path` starts with.
  static std::string temporary_prefix(const std::filesystem::path& path);

 private:
  [[noreturn]] void fail(const char* what, int error) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  uint64_t size_bytes_ = 0;
  int fd_ = -1;
};

}  // namespace trireme
