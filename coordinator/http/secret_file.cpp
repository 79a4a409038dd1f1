#include "coordinator/http/secret_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kernels/result.h"

namespace trireme {

void check_secret_file(const std::filesystem::path& path, const char* option) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0 || access(path.c_str(), R_OK) != 0) {
    throw EnvironmentError(
        fmt::format("{} {}: cannot be read: {}", option, path.string(), std::strerror(errno)));
  }
  if (!S_ISREG(status.st_mode)) {
    throw EnvironmentError(fmt::format("{} {}: not a file", option, path.string()));
  }
  if ((status.st_mode & S_IRWXO) != 0) {
    throw EnvironmentError(
        fmt::format("{} {}: every user of this machine has access to it: chmod "
                    "o= {}",
                    option, path.string(), path.string()));
  }
}

}  // namespace trireme
