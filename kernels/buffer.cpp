#include "kernels/buffer.h"

#include <sys/mman.h>

#include <string>

#include "kernels/int_math.h"
#include "kernels/result.h"

namespace trireme {

void BufferDeleter::operator()(void* p) const noexcept { munmap(p, size_bytes); }

Buffer::Buffer(size_t size_bytes, Device device, const char* what)
    : Buffer(size_bytes, device, what, -1, 0) {}

// Mapped, not taken from the heap: zeroed by the system and resident only where it was touched.
Buffer::Buffer(size_t size_bytes, Device device, const char* what, int fd, uint64_t offset)
    : device_(device), size_bytes_(size_bytes) {
  TRIREME_CHECK(device.kind == DeviceKind::kCpu);
  const size_t mapped = round_up<size_t>(size_bytes == 0 ? 1 : size_bytes, 4096);
  const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, flags, fd, static_cast<off_t>(offset));
  if (p == MAP_FAILED) {
    throw EnvironmentError("cannot allocate " + std::to_string(mapped) + " bytes for " + what +
                           ": serve a shorter context or fewer sequences, or add memory");
  }
  data_ = std::unique_ptr<void, BufferDeleter>(p, BufferDeleter{mapped});
}

}  // namespace trireme
