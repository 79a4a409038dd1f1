#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "kernels/check.h"
#include "kernels/result.h"

// What libFuzzer calls with every input, and driver.cpp where there is no libFuzzer. An input that
// is refused is an ordinary outcome: only a broken invariant (TRIREME_CHECK), a sanitizer's finding
// or an input that takes seconds is a fault.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace trireme::fuzz {

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A file in memory with a path, for readers that open one.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    TRIREME_CHECK(fd_ >= 0);
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // `bytes`, then zeros up to `size_bytes`, which take no memory.
  void write(std::string_view bytes, uint64_t size_bytes) {
    TRIREME_CHECK(::ftruncate(fd_, 0) == 0);
    TRIREME_CHECK(::ftruncate(fd_, static_cast<off_t>(size_bytes)) == 0);
    const auto n = static_cast<ssize_t>(bytes.size());
    TRIREME_CHECK(::pwrite(fd_, bytes.data(), bytes.size(), 0) == n);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  int fd_;
  std::filesystem::path path_;
};

// A refusal is one line of bounded length, whatever the input holds.
inline void check_message(std::string_view message) {
  constexpr size_t kMaxBytes = 4096;
  TRIREME_CHECK(!message.empty() && message.size() <= kMaxBytes);
  for (const char c : message) {
    TRIREME_CHECK_MSG(static_cast<unsigned char>(c) >= 0x20, "a control character in a message");
  }
}

// True when `read` accepts the input; false when it refuses it as it should.
template <typename Read>
bool accepts(const Read& read) {
  try {
    read();
    return true;
  } catch (const EnvironmentError& error) {
    check_message(error.what());
    return false;
  }
}

}  // namespace trireme::fuzz
