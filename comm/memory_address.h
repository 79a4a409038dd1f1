#pragma once

#include <cstdint>

#include "comm/control/unique_fd.h"

namespace trireme {

// Where a process of this machine finds another's memfd, and which file it must be.
struct MemoryAddress {
  int64_t pid = 0;
  int64_t fd = -1;  // -1: none
  uint64_t device = 0;
  uint64_t inode = 0;
  bool operator==(const MemoryAddress&) const = default;
};

// Of a descriptor of this process, which must keep it while others may open it.
MemoryAddress memory_address(int fd);

// Opens it to read and write. Throws EnvironmentError when it is out of reach (another container or
// user, say) or another file.
UniqueFd open_memory(const MemoryAddress& address);

}  // namespace trireme
