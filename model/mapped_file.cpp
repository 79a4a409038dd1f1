#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/core.h>

#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
  throw EnvironmentError(fmt::format("{}: cannot be {}: {}; check the path and its permissions",
                                     path.string(), what, std::strerror(error)));
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(path, "opened", errno);
  struct stat info {};
  int error = ::fstat(fd, &info) != 0 ? errno : 0;
  if (error == 0 && !S_ISREG(info.st_mode)) error = EINVAL;
  if (error == 0 && info.st_size > 0) {
    void* data = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
      error = errno;
    } else {
      data_ = static_cast<const std::byte*>(data);
      size_ = static_cast<size_t>(info.st_size);
    }
  }
  ::close(fd);
  if (error != 0) fail(path, "mapped", error);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  // munmap() takes a pointer to non-const; nothing is written.
  const int rc = ::munmap(const_cast<std::byte*>(data_), size_);
  TRIREME_CHECK(rc == 0);
}

void touch_pages(const void* data, uint64_t size) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto* bytes = static_cast<const volatile std::byte*>(data);
  for (uint64_t i = 0; i < size; i += page) (void)bytes[i];
  if (size > 0) (void)bytes[size - 1];
}

}  // namespace trireme
