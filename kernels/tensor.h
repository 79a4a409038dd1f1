#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels/check.h"

namespace trireme {

enum class DType : uint8_t { kF32, kBF16, kI32, kI8 };

constexpr size_t dtype_size(DType dtype) {
  return dtype == DType::kI8 ? 1 : dtype == DType::kBF16 ? 2 : 4;
}
const char* dtype_name(DType dtype);

enum class DeviceKind : uint8_t { kCpu, kCuda };

// Where a tensor's bytes live. Nobody dereferences `data` without knowing that it is host memory.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int16_t index = 0;
  bool operator==(const Device&) const = default;
};

class ThreadPool;

// The queue of work an operation is put on. On the CPU, the rank's thread pool (null: this thread);
// on CUDA, `handle` is the cudaStream_t.
struct Stream {
  Device device;
  ThreadPool* pool = nullptr;
  void* handle = nullptr;
};

// A view of up to four dimensions, rows contiguous, without ownership. `row_stride` is the distance
// in elements between consecutive indices of the first dimension; inner dimensions are dense.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Device device;
  int rank = 0;
  std::array<int64_t, 4> shape{};
  int64_t row_stride = 0;

  int64_t dim(int i) const {
    TRIREME_CHECK(i >= 0 && i < rank);
    return shape[static_cast<size_t>(i)];
  }
  // Elements in one index of the first dimension.
  int64_t row_size() const {
    int64_t n = 1;
    for (int i = 1; i < rank; ++i) n *= shape[static_cast<size_t>(i)];
    return n;
  }
  int64_t n_elements() const { return rank == 0 ? 0 : shape[0] * row_size(); }
  bool is_dense() const { return row_stride == row_size(); }
  size_t size_bytes() const { return static_cast<size_t>(n_elements()) * dtype_size(dtype); }

  template <typename T>
  T* as() const {
    TRIREME_CHECK(sizeof(T) == dtype_size(dtype));
    return static_cast<T*>(data);
  }
  // The first n indices of the first dimension.
  Tensor first(int64_t n) const {
    TRIREME_CHECK(rank > 0 && n >= 0 && n <= shape[0]);
    Tensor out = *this;
    out.shape[0] = n;
    return out;
  }
};

// A dense view of host or device memory.
inline Tensor make_tensor(void* data, DType dtype, std::initializer_list<int64_t> shape,
                          Device device = {}) {
  TRIREME_CHECK(shape.size() >= 1 && shape.size() <= 4);
  Tensor t;
  t.data = data;
  t.dtype = dtype;
  t.device = device;
  for (int64_t n : shape) t.shape[static_cast<size_t>(t.rank++)] = n;
  t.row_stride = t.row_size();
  return t;
}

}  // namespace trireme
