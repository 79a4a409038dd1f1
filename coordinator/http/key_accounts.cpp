#include "coordinator/http/key_accounts.h"

#include <limits>

namespace trireme {

void KeyAccounts::set_keys(const ApiKeys& keys) {
  const std::lock_guard lock(state_->mutex);
  state_->terms = keys.terms();
}

KeyTerms KeyAccounts::terms(const std::string& name) const {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->terms.find(name);
  return found == state_->terms.end() ? KeyTerms{} : found->second;
}

KeyAccounts::Lease KeyAccounts::enter(const std::string& name) {
  const int32_t limit = terms(name).max_requests;
  return enter(name, limit == 0 ? std::numeric_limits<int32_t>::max() : limit);
}

KeyAccounts::Lease KeyAccounts::go_on(const std::string& name) {
  return enter(name, std::numeric_limits<int32_t>::max());
}

KeyAccounts::Lease KeyAccounts::enter(const std::string& name, int32_t limit) {
  const std::lock_guard lock(state_->mutex);
  int32_t& n = state_->n_requests[name];
  if (n >= limit) return nullptr;
  ++n;
  return {state_.get(), [name, state = state_](State*) {
            const std::lock_guard leave(state->mutex);
            const auto found = state->n_requests.find(name);
            if (--found->second == 0) state->n_requests.erase(found);
          }};
}

}  // namespace trireme
