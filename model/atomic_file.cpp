#include "model/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <fmt/core.h>

#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {

std::string AtomicFile::temporary_prefix(const std::filesystem::path& path) {
  return path.filename().string() + ".tmp.";
}

AtomicFile::AtomicFile(const std::filesystem::path& path, uint64_t size_bytes)
    : path_(path), size_bytes_(size_bytes) {
  // mkstemp() writes the name into its argument.
  std::string name = (path.parent_path() / temporary_prefix(path)).string() + "XXXXXX";
  fd_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd_ < 0) fail("created", errno);
  temporary_ = name;
  // Not every file system can set room aside; those find out while writing.
  const int error = ::fallocate(fd_, 0, 0, static_cast<off_t>(size_bytes)) == 0 ? 0 : errno;
  if (error == ENOSPC || error == EFBIG || error == EDQUOT) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
    fail("written", error);
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail(const char* what, int error) const {
  throw EnvironmentError(fmt::format(
      "{}: cannot be {} ({} bytes): {}; make room or permit it there, or choose another "
      "folder (the cache's is TRIREME_CACHE)",
      path_.string(), what, size_bytes_, std::strerror(error)));
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  TRIREME_CHECK(offset + bytes.size() <= size_bytes_);
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("written", n == 0 ? EIO : errno);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

void AtomicFile::commit() {
  if (::ftruncate(fd_, static_cast<off_t>(size_bytes_)) != 0) fail("written", errno);
  if (::fchmod(fd_, 0644) != 0) fail("written", errno);
  if (::fsync(fd_) != 0) fail("flushed", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("renamed", errno);
  temporary_.clear();
  // The new name must be on the disk too before anyone counts on it.
  const int folder = ::open(path_.parent_path().empty() ? "." : path_.parent_path().c_str(),
                            O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);
    ::close(folder);
  }
}

}  // namespace trireme
