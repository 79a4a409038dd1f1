#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "coordinator/http/api_keys.h"
#include "coordinator/http/generation_call.h"

namespace trireme {

// Makes the request one of an API key (its name; "" without keys). It shares the service with
// others as this key's. And cached KV only with those of the same key and salt: how soon an answer
// comes tells whether somebody sent the same prompt before, and that is nobody else's business.
void give_to_key(GenerationCall* call, const std::string& key_name);

// The key's priority, unless `body` asks for a worse one.
void set_key_priority(GenerationCall* call, const nlohmann::ordered_json& body,
                      const KeyTerms& terms);

}  // namespace trireme
