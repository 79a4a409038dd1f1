#pragma once

#include <string>

#include "coordinator/http/json_fields.h"

namespace trireme {

constexpr size_t kMaxCacheSaltBytes = 256;

// cache_salt: 1 to 256 bytes. Errors are left in `fields`.
void read_cache_fields(JsonFields& fields, std::string* cache_salt);

}  // namespace trireme
