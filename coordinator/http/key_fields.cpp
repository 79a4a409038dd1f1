#include "coordinator/http/key_fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace trireme {

// No name of a key has a line end in it.
void give_to_key(GenerationCall* call, const std::string& key_name) {
  call->tenant = key_name;
  if (key_name.empty() && call->cache_salt.empty()) return;
  call->cache_salt = key_name + "\n" + call->cache_salt;
}

void set_key_priority(GenerationCall* call, const nlohmann::ordered_json& body,
                      const KeyTerms& terms) {
  if (!terms.priority) return;
  const auto asked = body.find("priority");
  const bool given = asked != body.end() && !asked->is_null();
  call->priority = given ? std::max(call->priority, *terms.priority) : *terms.priority;
}

}  // namespace trireme
