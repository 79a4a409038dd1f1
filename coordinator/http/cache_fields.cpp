#include "coordinator/http/cache_fields.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace trireme {

void read_cache_fields(JsonFields& fields, std::string* cache_salt) {
  if (!fields.has("cache_salt")) return;
  *cache_salt = fields.string("cache_salt", "");
  const size_t n_bytes = cache_salt->size();
  if (!fields.error() && (n_bytes == 0 || n_bytes > kMaxCacheSaltBytes)) {
    fields.fail("cache_salt", fmt::format("cache_salt must have 1 to {} bytes, not {}",
                                          kMaxCacheSaltBytes, n_bytes));
  }
}

}  // namespace trireme
