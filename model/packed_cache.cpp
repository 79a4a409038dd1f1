#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include <fmt/core.h>

#include "kernels/result.h"
#include "model/atomic_file.h"
#include "model/checksum.h"
#include "model/packed_header.h"
#include "model/packed_model.h"
#include "model/source_model.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

// How long to wait for another process that packs the same model. Packing 100 GB takes minutes.
constexpr auto kLockDeadline = std::chrono::minutes(60);
constexpr auto kLockPoll = std::chrono::milliseconds(20);
constexpr const char* kSuffix = ".trireme";

uint64_t hash_text(const std::string& text) { return checksum64(std::as_bytes(std::span(text))); }

fs::path cache_root() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const std::string own = variable("TRIREME_CACHE"); !own.empty()) return own;
  if (const std::string xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) {
    return fs::path(xdg) / "trireme";
  }
  if (const std::string home = variable("HOME"); !home.empty()) {
    return fs::path(home) / ".cache" / "trireme";
  }
  throw EnvironmentError("no folder for packed weights: HOME is not set; set TRIREME_CACHE to one");
}

// Sizes and times of all that the packed file is made from.
uint64_t source_key(const fs::path& folder) {
  std::string text = fmt::format("packed {}", kPackedVersion);
  std::vector<fs::path> files = SourceModel::weight_files(folder);
  files.push_back(folder / "config.json");
  files.push_back(folder / "generation_config.json");
  for (const fs::path& path : files) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) continue;  // the reader tells what is missing
    text += fmt::format("\n{} {} {}.{}", path.filename().string(), info.st_size,
                        info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
  }
  return hash_text(text);
}

// Held by the one process that makes a folder's packed files; the kernel frees it with the process.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& path) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) fail(path, errno);
    const auto deadline = std::chrono::steady_clock::now() + kLockDeadline;
    while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      if (error == EINTR) continue;
      if (error != EWOULDBLOCK || std::chrono::steady_clock::now() > deadline) {
        ::close(fd_);
        fail(path, error == EWOULDBLOCK ? ETIMEDOUT : error);
      }
      std::this_thread::sleep_for(kLockPoll);
    }
  }
  ~FolderLock() { ::close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  [[noreturn]] static void fail(const fs::path& path, int error) {
    throw EnvironmentError(fmt::format(
        "{}: cannot be locked: {}; end the process that holds it or set TRIREME_CACHE to a folder "
        "that can be written",
        path.string(), std::strerror(error)));
  }
  int fd_ = -1;
};

// A file that cannot be opened is as good as none: it is made again.
bool is_usable(const fs::path& path) {
  std::error_code code;
  if (!fs::exists(path, code)) return false;
  try {
    (void)PackedModel::open(path);
    return true;
  } catch (const EnvironmentError&) {
    return false;
  }
}

// Packed files of the same format from an older source, and what a killed process left.
void remove_stale(const fs::path& folder, const fs::path& keep, const std::string& format_suffix) {
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    const bool temporary = name.find(format_suffix + ".tmp.") != std::string::npos;
    if (temporary || (name.ends_with(format_suffix) && entry.path() != keep)) {
      fs::remove(entry.path(), code);
    }
  }
}

}  // namespace

fs::path cached_packed_model(const fs::path& model_folder, WeightFormat format,
                             const std::function<void(uint64_t, uint64_t)>& on_progress) {
  std::error_code code;
  const fs::path source = fs::canonical(model_folder, code);
  if (code) {
    throw EnvironmentError(fmt::format("{}: {}; give the folder of a Hugging Face model",
                                       model_folder.string(), code.message()));
  }
  const std::string format_suffix = fmt::format(".{}{}", weight_format_name(format), kSuffix);
  const fs::path folder = cache_root() / fmt::format("{:016x}", hash_text(source.string()));
  const fs::path file = folder / (fmt::format("{:016x}", source_key(source)) + format_suffix);
  if (is_usable(file)) return file;

  fs::create_directories(folder, code);
  if (code) {
    throw EnvironmentError(
        fmt::format("{}: cannot be made: {}; set TRIREME_CACHE to a folder that can be written",
                    folder.string(), code.message()));
  }
  const FolderLock lock(folder / "lock");
  if (is_usable(file)) return file;  // made while this process waited
  remove_stale(folder, file, format_suffix);
  pack_model(source, file, format, on_progress);
  return file;
}

}  // namespace trireme
