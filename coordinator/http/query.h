#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/result.h"

namespace trireme {

// The value of `name` in a URL's query ("a=1&b=%20"), decoded; nothing when it is not there. An
// error when the query is malformed or names it twice.
Result<std::optional<std::string>> query_value(std::string_view query, std::string_view name);

// The same as a whole number in [min, max]; `fallback` when it is not there.
Result<int64_t> query_integer(std::string_view query, std::string_view name, int64_t fallback,
                              int64_t min, int64_t max);

}  // namespace trireme
