#pragma once

#include <fmt/format.h>

#include <cstdio>

namespace trireme {

// Prints for people. Unlike fmt::print it never throws: whoever read the stream may be gone, and
// the work goes on.
template <typename... Args>
void say(std::FILE* to, fmt::format_string<Args...> format, Args&&... args) {
  std::fputs(fmt::format(format, std::forward<Args>(args)...).c_str(), to);
  std::fflush(to);
}

}  // namespace trireme
