#pragma once

#include <string_view>

namespace trireme {

// Names the program's version. A rank and its coordinator must be of the same.
std::string_view build_id();

}  // namespace trireme
