#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "kernels/result.h"

namespace trireme {

constexpr int kMaxJsonDepth = 64;
constexpr int64_t kMaxJsonValues = 1000000;
constexpr int64_t kMaxJsonMembers =
    1024;  // of one object: they are kept in order, searched in line

// Parses a request's body: one JSON object within the bounds above, which are checked before
// anything is built from it. Members keep the client's order, as chat templates print them.
Result<nlohmann::ordered_json> parse_json_body(std::string_view body);

}  // namespace trireme
