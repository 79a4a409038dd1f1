#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "coordinator/http/api_keys.h"

namespace trireme {

// Makes a request one of an API key (its name; "" without keys). It shares the service with others
// as this key's (GenerateRequest::tenant). And cached KV only with those of the same key and salt:
// how soon an answer comes tells whether somebody sent the same prompt before, and that is nobody
// else's business.
void give_to_key(std::string* tenant, std::string* cache_salt, const std::string& key_name);

// The key's priority, unless `body` asks for a worse one, as `priority` says.
void set_key_priority(int32_t* priority, const nlohmann::ordered_json& body, const KeyTerms& terms);

}  // namespace trireme
