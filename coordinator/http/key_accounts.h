#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "coordinator/http/api_keys.h"

namespace trireme {

// What each API key may have, by its name, and how many of its requests are being answered.
// Thread-safe; leases may outlive it. The name "" stands for everybody on a server without keys.
class KeyAccounts {
 public:
  // While it lives, a request counts.
  using Lease = std::shared_ptr<void>;

  // From now on; requests that are being answered go on.
  void set_keys(const ApiKeys& keys);
  // Of a key that is not known (any more): no limits.
  KeyTerms terms(const std::string& name) const;

  // One more request of a key; null: it has as many as it may.
  Lease enter(const std::string& name);
  // One that was let in before, by a coordinator before this one.
  Lease go_on(const std::string& name);

 private:
  struct State {
    std::mutex mutex;
    std::map<std::string, KeyTerms> terms;
    std::map<std::string, int32_t> n_requests;  // of keys that have some
  };
  Lease enter(const std::string& name, int32_t limit);

  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace trireme
