#pragma once

#include <span>
#include <string>
#include <string_view>

namespace trireme {

// The candidate that is most like `word`, or "" when none is like it: what a person may have meant.
std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace trireme
