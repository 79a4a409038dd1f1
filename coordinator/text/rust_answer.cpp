#include "coordinator/text/rust_answer.h"

#include <cstring>

#include "kernels/check.h"

namespace trireme::detail {

std::string RustAnswer::text() const {
  return std::string(buffer_.data, buffer_.data + buffer_.size);
}

std::vector<int32_t> RustAnswer::ids() const {
  TRIREME_CHECK(buffer_.size % sizeof(int32_t) == 0);
  std::vector<int32_t> ids(buffer_.size / sizeof(int32_t));
  if (!ids.empty()) {
    std::memcpy(ids.data(), buffer_.data, buffer_.size);
  }
  return ids;
}

bool RustAnswer::flag() const {
  TRIREME_CHECK(buffer_.size == 1);
  return buffer_.data[0] != 0;
}

}  // namespace trireme::detail
