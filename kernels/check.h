#pragma once

namespace trireme::detail {
[[noreturn]] void check_failed(const char* condition, const char* message, const char* file,
                               int line) noexcept;
}  // namespace trireme::detail

// A broken invariant is a bug: print it and abort the process; the group is then restarted as after
// any dead rank. Stays on in release builds.
#define TRIREME_CHECK(condition)                                           \
  do {                                                                     \
    if (!(condition)) [[unlikely]]                                         \
      ::trireme::detail::check_failed(#condition, "", __FILE__, __LINE__); \
  } while (false)

#define TRIREME_CHECK_MSG(condition, message)                                   \
  do {                                                                          \
    if (!(condition)) [[unlikely]]                                              \
      ::trireme::detail::check_failed(#condition, message, __FILE__, __LINE__); \
  } while (false)
