#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/tensor.h"

namespace trireme {

// Gives a Buffer's memory back to the system.
struct BufferDeleter {
  size_t size_bytes = 0;
  void operator()(void* p) const noexcept;
};

// Zeroed memory of one tensor, allocated once at start, page-aligned, on the tensor's device.
class Buffer {
 public:
  // Throws EnvironmentError when the memory cannot be had (says how much was asked for).
  Buffer(size_t size_bytes, Device device, const char* what);
  // The memory of a file from `offset` on, which others may see and which outlives this.
  Buffer(size_t size_bytes, Device device, const char* what, int fd, uint64_t offset);
  Buffer() = default;  // none

  void* data() const { return data_.get(); }
  size_t size_bytes() const { return size_bytes_; }
  Device device() const { return device_; }

 private:
  Device device_;
  std::unique_ptr<void, BufferDeleter> data_;
  size_t size_bytes_ = 0;
};

}  // namespace trireme
