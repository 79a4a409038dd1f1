#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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
#include "model/packed_folder.h"
#include "model/packed_header.h"
#include "model/packed_model.h"
#include "model/source_model.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

// How long to wait for another process that packs the same model. Packing 100 GB takes minutes.
constexpr auto kLockDeadline = std::chrono::minutes(60);
constexpr auto kLockPoll = std::chrono::milliseconds(20);

uint64_t hash_text(const std::string& text) { return checksum64(std::as_bytes(std::span(text))); }

// Empty when nothing says where.
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
  return {};
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
bool is_usable(const fs::path& path, const PackedCacheOptions& options) {
  std::error_code code;
  if (!fs::exists(path, code)) return false;
  try {
    (void)PackedModel::open(path);
    return true;
  } catch (const EnvironmentError&) {
    if (options.on_note) {
      options.on_note(
          fmt::format("{}: is damaged or of another build; it is made again", path.string()));
    }
    return false;
  }
}

// Packed files of the same format from an older source, and what a killed process left.
void remove_stale(const fs::path& folder, const std::string& format_suffix,
                  const std::vector<fs::path>& used) {
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    const bool temporary = name.find(format_suffix + ".tmp.") != std::string::npos;
    if (temporary || (name.ends_with(format_suffix) &&
                      std::find(used.begin(), used.end(), entry.path()) == used.end())) {
      fs::remove(entry.path(), code);
    }
  }
}

// The names of a model's packed file and of its folder in the cache.
struct CacheNames {
  fs::path source;            // the model's folder, without links
  std::string folder;         // in the cache
  std::string file;           // in that
  std::string format_suffix;  // that the file's name ends with
};

CacheNames cache_names(const fs::path& model_folder, WeightFormat format) {
  std::error_code code;
  CacheNames names;
  names.source = fs::canonical(model_folder, code);
  if (code) {
    throw EnvironmentError(fmt::format("{}: {}; give the folder of a Hugging Face model",
                                       model_folder.string(), code.message()));
  }
  names.format_suffix = fmt::format(".{}{}", weight_format_name(format), kPackedSuffix);
  names.folder = fmt::format("{:016x}", hash_text(names.source.string()));
  names.file = fmt::format("{:016x}", source_key(names.source)) + names.format_suffix;
  return names;
}

// Makes the folder; why nothing can be written there, or empty.
std::string why_unwritable(const fs::path& folder) {
  std::error_code code;
  fs::create_directories(folder, code);
  if (code) return code.message();
  return ::access(folder.c_str(), W_OK) == 0 ? "" : std::strerror(errno);
}

// Where to pack instead of the cache, which `why` says cannot be written.
fs::path fallback_file(const CacheNames& names, const fs::path& cache, const std::string& why,
                       const PackedCacheOptions& options) {
  const std::string problem = cache.empty()
                                  ? "no cache folder for packed weights: HOME is not set"
                                  : fmt::format("{}: cannot be written ({})", cache.string(), why);
  if (options.fallback.empty()) {
    throw EnvironmentError(problem + "; set TRIREME_CACHE to a folder that can be written");
  }
  if (options.on_note) {
    options.on_note(fmt::format(
        "{}; packing the weights to {} for this run only (set TRIREME_CACHE to keep them)", problem,
        options.fallback.string()));
  }
  return options.fallback / (names.folder + "-" + names.file);
}

}  // namespace

fs::path cached_packed_path(const fs::path& model_folder, WeightFormat format) {
  const CacheNames names = cache_names(model_folder, format);
  return cache_root() / names.folder / names.file;
}

fs::path cached_packed_model(const fs::path& model_folder, WeightFormat format,
                             const PackedCacheOptions& options) {
  const CacheNames names = cache_names(model_folder, format);
  const fs::path root = cache_root();
  const fs::path folder = root / names.folder;
  const fs::path file = folder / names.file;
  if (!root.empty() && is_usable(file, options)) return file;
  const std::string problem = root.empty() ? "HOME is not set" : why_unwritable(folder);
  if (!problem.empty()) {
    const fs::path elsewhere = fallback_file(names, root, problem, options);
    pack_model(names.source, elsewhere, format, options.on_progress);
    return elsewhere;
  }
  const FolderLock lock(folder / "lock");
  if (is_usable(file, {})) return file;  // made while this process waited
  remove_stale(folder, names.format_suffix, options.keep);
  pack_model(names.source, file, format, options.on_progress);
  return file;
}

}  // namespace trireme
