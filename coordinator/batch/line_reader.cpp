#include "coordinator/batch/line_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "kernels/result.h"

namespace trireme {
namespace {

constexpr size_t kReadBytes = 256U << 10;

[[noreturn]] void unreadable(const std::filesystem::path& path, const char* cause) {
  throw EnvironmentError(
      fmt::format("cannot read {}: {}; name a file that this user can read", path.string(), cause));
}

}  // namespace

LineReader::LineReader(std::filesystem::path path, size_t max_line_bytes)
    : path_(std::move(path)),
      max_line_bytes_(max_line_bytes),
      fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  struct stat status {};
  if (fd_.get() < 0 || ::fstat(fd_.get(), &status) != 0) unreadable(path_, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) unreadable(path_, "it is not a plain file");
  size_bytes_ = static_cast<uint64_t>(status.st_size);
}

bool LineReader::fill() {
  buffer_.resize(kReadBytes);
  begin_ = 0;
  ssize_t n = 0;
  do {
    n = ::read(fd_.get(), buffer_.data(), buffer_.size());
  } while (n < 0 && errno == EINTR);
  if (n < 0) unreadable(path_, std::strerror(errno));
  buffer_.resize(static_cast<size_t>(n));
  return n > 0;
}

// The next line, blank or not. The last one need not have an end.
bool LineReader::read_line(Line* line) {
  line->text.clear();
  line->too_long = false;
  bool any = false;
  while (begin_ < buffer_.size() || fill()) {
    any = true;
    const size_t end = buffer_.find('\n', begin_);
    const size_t n = (end == std::string::npos ? buffer_.size() : end) - begin_;
    const size_t room = max_line_bytes_ - line->text.size();
    line->too_long |= n > room;
    line->text.append(buffer_, begin_, std::min(n, room));
    const size_t taken = end == std::string::npos ? n : n + 1;
    begin_ += taken;
    offset_ += taken;
    if (end != std::string::npos) break;
  }
  return any;
}

bool LineReader::next(Line* line) {
  while (read_line(line)) {
    if (line->too_long || line->text.find_first_not_of(" \t\r") != std::string::npos) return true;
  }
  return false;
}

}  // namespace trireme
