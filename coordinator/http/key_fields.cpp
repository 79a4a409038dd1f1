#include "coordinator/http/key_fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace trireme {

// No name of a key has a line end in it.
void give_to_key(std::string* tenant, std::string* cache_salt, const std::string& key_name) {
  *tenant = key_name;
  if (key_name.empty() && cache_salt->empty()) return;
  *cache_salt = key_name + "\n" + *cache_salt;
}

void set_key_priority(int32_t* priority, const nlohmann::ordered_json& body,
                      const KeyTerms& terms) {
  if (!terms.priority) return;
  const auto asked = body.find("priority");
  const bool given = asked != body.end() && !asked->is_null();
  *priority = given ? std::max(*priority, *terms.priority) : *terms.priority;
}

}  // namespace trireme
