#pragma once

#include <string>

#include "coordinator/http/json_fields.h"

namespace trireme {

constexpr size_t kMaxCacheSaltBytes = 256;

// cache_salt: 1 to 256 bytes. Errors are left in `fields`.
void read_cache_fields(JsonFields& fields, std::string* cache_salt);

// Has the request share cached KV only with those of the same API key (its name; "" without keys)
// and salt: how soon an answer comes tells whether somebody sent the same prompt before, and that
// is nobody else's business.
void keep_cache_apart(std::string* cache_salt, const std::string& key_name);

}  // namespace trireme
