#include "coordinator/batch/batch_output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "coordinator/batch/batch_line.h"
#include "coordinator/batch/line_reader.h"
#include "kernels/result.h"

namespace trireme {
namespace {

// Of a line: what tells its name and whether it was a success, however its custom_id is escaped.
constexpr size_t kHeadBytes = 256 + 6 * kMaxCustomIdBytes;

bool ends_in_newline(int fd, uint64_t size_bytes) {
  char last = '\n';
  return size_bytes == 0 ||
         (::pread(fd, &last, 1, static_cast<off_t>(size_bytes - 1)) == 1 && last == '\n');
}

}  // namespace

BatchOutput::BatchOutput(std::filesystem::path path, const BatchKey& key)
    : path_(std::move(path)),
      fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  struct stat status {};
  if (fd_.get() < 0 || ::fstat(fd_.get(), &status) != 0) fail("written");
  if (!S_ISREG(status.st_mode)) {
    throw EnvironmentError(
        fmt::format("{} is not a plain file: name another for the answers", path_.string()));
  }
  if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    throw EnvironmentError(fmt::format(
        "{} is being written by another process: wait for it, or name another file for the answers",
        path_.string()));
  }
  recover(key);
}

void BatchOutput::fail(const char* what) const {
  throw EnvironmentError(
      fmt::format("{} cannot be {}: {}; make room or name another file for the answers",
                  path_.string(), what, std::strerror(errno)));
}

// Every line is compared with the name that it must have, so nothing that is not of this batch is
// taken for it, or cut.
void BatchOutput::recover(const BatchKey& key) {
  LineReader lines(path_, kHeadBytes);
  const bool whole = ends_in_newline(fd_.get(), lines.size_bytes());
  LineReader::Line line;
  for (uint64_t begin = 0; lines.next(&line); begin = lines.offset()) {
    const std::string expected = batch_line_begin(key.name(kBatchLinePrefix, n_lines_));
    const bool torn = lines.offset() == lines.size_bytes() && !whole;
    const bool known = torn && line.text.size() < expected.size() ? expected.starts_with(line.text)
                                                                  : line.text.starts_with(expected);
    if (!known) {
      throw ForeignOutput(
          fmt::format("{}: line {} is no answer of this batch: it was begun with another input, "
                      "model, name or option, or by another build; move the file away, or name "
                      "another for the answers",
                      path_.string(), n_lines_ + 1));
    }
    if (torn) {
      if (::ftruncate(fd_.get(), static_cast<off_t>(begin)) != 0) fail("cut");
      return;
    }
    ++n_lines_;
    n_failed_ += is_success_line(line.text) ? 0 : 1;
  }
}

void BatchOutput::append(std::string_view lines) {
  for (std::string_view rest = lines; !rest.empty();) {
    const ssize_t n = ::write(fd_.get(), rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("written");
    rest.remove_prefix(static_cast<size_t>(n));
  }
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = lines.find('\n', begin);
    ++n_lines_;
    n_failed_ += is_success_line(lines.substr(begin, end - begin)) ? 0 : 1;
    begin = end + 1;
  }
}

void BatchOutput::sync() {
  if (::fdatasync(fd_.get()) != 0) fail("written");
}

}  // namespace trireme
