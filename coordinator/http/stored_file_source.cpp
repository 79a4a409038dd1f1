#include "coordinator/http/stored_file_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "comm/control/unique_fd.h"

namespace trireme {
namespace {

class StoredFileSource final : public BodySource {
 public:
  StoredFileSource(UniqueFd fd, uint64_t size_bytes)
      : fd_(std::move(fd)), size_bytes_(size_bytes) {}

  uint64_t size_bytes() const override { return size_bytes_; }

  std::string read(size_t max_bytes) override {
    std::string bytes(max_bytes, '\0');
    ssize_t n = 0;
    do {
      n = ::read(fd_.get(), bytes.data(), bytes.size());
    } while (n < 0 && errno == EINTR);
    bytes.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return bytes;
  }

 private:
  const UniqueFd fd_;
  const uint64_t size_bytes_;
};

}  // namespace

std::shared_ptr<BodySource> open_stored_file(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!fd || ::fstat(fd.get(), &status) != 0) return nullptr;
  return std::make_shared<StoredFileSource>(std::move(fd), static_cast<uint64_t>(status.st_size));
}

}  // namespace trireme
