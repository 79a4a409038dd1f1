#include "kernels/check.h"

#include <cstdio>
#include <cstdlib>

namespace trireme::detail {

void check_failed(const char* condition, const char* message, const char* file, int line) noexcept {
  std::fprintf(stderr, "trireme: bug: %s:%d: check failed: %s %s\n", file, line, condition,
               message);
  std::fflush(stderr);
  std::abort();
}

}  // namespace trireme::detail
