#pragma once

#include <array>
#include <string>
#include <string_view>

namespace trireme {

using SecretKey = std::array<unsigned char, 32>;

// What both ends make of the job's secret. Each use has a label of its own, and so its own key.
SecretKey derive_key(std::string_view label, std::string_view secret);

// Bytes that were never used before, for a label.
constexpr size_t kSaltBytes = 16;
std::string random_salt();

}  // namespace trireme
