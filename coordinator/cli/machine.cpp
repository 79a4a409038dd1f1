#include "coordinator/cli/machine.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "kernels/result.h"

namespace trireme {
namespace {

constexpr std::string_view kRunFolder = "trireme-run-";
constexpr std::string_view kRandomPart = "XXXXXX";  // for mkdtemp
constexpr int kMostTries = 16;

// A folder of this user and the lock that its process holds; nothing where another one holds it, or
// the folder is gone. A file system without such locks gives the folder without one.
UniqueFd lock_folder(const std::filesystem::path& path, bool* locked) {
  *locked = false;
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return {};
  const bool taken = flock(fd.get(), LOCK_EX | LOCK_NB) == 0;
  if (!taken && errno == EWOULDBLOCK) return {};
  struct stat status {};
  if (fstat(fd.get(), &status) != 0 || status.st_nlink == 0 || status.st_uid != geteuid())
    return {};
  *locked = taken;
  return fd;
}

// What processes of this user left that were killed.
void remove_abandoned_folders(const std::filesystem::path& base) {
  std::error_code error;
  std::filesystem::directory_iterator entries(base, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    if (!name.starts_with(kRunFolder) || name.size() != kRunFolder.size() + kRandomPart.size())
      continue;
    bool locked = false;
    const UniqueFd fd = lock_folder(entries->path(), &locked);
    std::error_code ignored;
    if (locked) std::filesystem::remove_all(entries->path(), ignored);
  }
}

}  // namespace

std::string random_secret() {
  std::array<unsigned char, 16> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    throw EnvironmentError("the system gives no random numbers (getrandom failed)");
  }
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const unsigned char b : bytes) {
    out += kDigits[b >> 4U];
    out += kDigits[b & 15U];
  }
  return out;
}

std::filesystem::path run_folder_base() {
  const char* given = std::getenv("TMPDIR");
  return given != nullptr && *given != '\0' ? given : "/tmp";
}

TemporaryFolder::TemporaryFolder() {
  const std::string base = run_folder_base().string();
  remove_abandoned_folders(base);
  // Until it is locked, another process may take it for abandoned.
  for (int i = 0; i < kMostTries && !lock_; ++i) {
    std::string pattern = fmt::format("{}/{}{}", base, kRunFolder, kRandomPart);
    if (mkdtemp(pattern.data()) == nullptr) break;
    path_ = pattern;
    bool locked = false;
    lock_ = lock_folder(path_, &locked);
  }
  if (lock_) return;
  throw EnvironmentError(
      fmt::format("cannot make a folder in {}: {}; set TMPDIR to a folder that can be written",
                  base, std::strerror(errno)));
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path own_executable() { return std::filesystem::read_symlink("/proc/self/exe"); }

std::string first_address() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return "127.0.0.1";
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, freeifaddrs);
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    if ((i->ifa_flags & IFF_UP) == 0 || (i->ifa_flags & IFF_LOOPBACK) != 0) continue;
    std::array<char, INET_ADDRSTRLEN> text{};
    const auto* address = reinterpret_cast<const sockaddr_in*>(i->ifa_addr);
    if (inet_ntop(AF_INET, &address->sin_addr, text.data(), text.size()) != nullptr) {
      return text.data();
    }
  }
  return "127.0.0.1";
}

uint64_t memory_bytes() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace trireme
