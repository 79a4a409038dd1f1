#include "coordinator/http/key_accounts.h"

#include <limits>

namespace trireme {

void KeyAccounts::set_keys(const ApiKeys& keys) {
  const std::lock_guard lock(mutex_);
  terms_ = keys.terms();
}

KeyTerms KeyAccounts::terms(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = terms_.find(name);
  return found == terms_.end() ? KeyTerms{} : found->second;
}

KeyAccounts::Lease KeyAccounts::enter(const std::string& name) {
  const int32_t limit = terms(name).max_requests;
  return enter(name, limit == 0 ? std::numeric_limits<int32_t>::max() : limit);
}

KeyAccounts::Lease KeyAccounts::go_on(const std::string& name) {
  return enter(name, std::numeric_limits<int32_t>::max());
}

KeyAccounts::Lease KeyAccounts::enter(const std::string& name, int32_t limit) {
  const std::lock_guard lock(mutex_);
  int32_t& n = n_requests_[name];
  if (n >= limit) return nullptr;
  ++n;
  return {this, [name](KeyAccounts* accounts) {
            const std::lock_guard leave(accounts->mutex_);
            const auto found = accounts->n_requests_.find(name);
            if (--found->second == 0) accounts->n_requests_.erase(found);
          }};
}

}  // namespace trireme
