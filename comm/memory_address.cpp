#include "comm/memory_address.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {

MemoryAddress memory_address(int fd) {
  struct stat status {};
  TRIREME_CHECK(fstat(fd, &status) == 0);
  return {.pid = getpid(), .fd = fd, .device = status.st_dev, .inode = status.st_ino};
}

UniqueFd open_memory(const MemoryAddress& address) {
  const std::string path = fmt::format("/proc/{}/fd/{}", address.pid, address.fd);
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    throw EnvironmentError(
        fmt::format("the shared memory {} cannot be opened ({}); run the processes of a host as "
                    "one user in one container",
                    path, std::strerror(errno)));
  }
  struct stat status {};
  if (fstat(fd.get(), &status) != 0 || status.st_dev != address.device ||
      status.st_ino != address.inode) {
    throw EnvironmentError(fmt::format(
        "{} is not the shared memory it should be; run the processes of a host in one container",
        path));
  }
  return fd;
}

}  // namespace trireme
