#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/serving/sequence.h"

namespace trireme {

// What the sequences of one tenant (GenerateRequest::tenant) were served.
struct Tenant {
  int64_t n_served = 0;  // tokens computed for them, of each once; see FairQueue
  int32_t n_live = 0;    // sequences that wait or run
};

// The waiting sequences of a scheduler in the order of service: the one with the lower priority,
// else one that resumes, else the one whose tenant was served less, else the one that came first.
//
// Tenants share by virtual time (Sheng et al., Fairness in Serving Large Language Models, 2024):
// one that comes, or comes back after it had nothing to do, is taken to have been served as much as
// the least served of those that are there, so that nobody saves up or is owed for a time of
// idleness. It has its turn as soon as anybody has, and from then on as many tokens as each of the
// others.
class FairQueue {
  using Lane = std::map<RequestId, Sequence*>;
  using Level = std::map<const Tenant*, Lane>;  // nothing depends on the order of addresses
  using Levels = std::map<std::pair<int32_t, bool>, Level>;  // by priority; first who resumes

 public:
  // A sequence of the scheduler, waiting or running, until it leaves.
  void join(Sequence& sequence);
  void leave(Sequence& sequence);
  // A plan computes its tokens [begin, end). What is computed again is not served again.
  static void charge(Sequence& sequence, int32_t begin, int32_t end);

  // Those that wait have joined.
  void insert(Sequence& sequence);
  void erase(const Sequence& sequence);

  bool empty() const { return n_waiting_ == 0; }
  int32_t size() const { return n_waiting_; }
  // Known tokens of all that wait.
  int64_t n_tokens() const { return n_tokens_; }
  // Null: nobody waits. Takes as long as there are tenants.
  Sequence* first() const;
  // The last one of the order that holds KV blocks; null: none does. Looks at all.
  Sequence* last_with_blocks() const;
  // By priority and id.
  std::vector<Sequence*> all() const;

  size_t n_tenants() const { return tenants_.size(); }

  // One after the other, each once, in the order as it is when it is asked for the next: what was
  // charged meanwhile counts. The one that it gave last may be erased; else none comes or goes.
  class Walk {
   public:
    explicit Walk(const FairQueue& queue);
    // Null: that was all.
    Sequence* next();

   private:
    struct Cursor {  // in a lane
      Lane::const_iterator at;
      Lane::const_iterator end;
    };
    void enter_level();

    Levels::const_iterator level_;  // the next one
    Levels::const_iterator levels_end_;
    std::vector<Cursor> cursors_;  // of this level, none at its end
  };

 private:
  int64_t least_served() const;

  std::map<std::string, Tenant> tenants_;  // with sequences, or served more than all that have some
  Levels levels_;
  int32_t n_waiting_ = 0;
  int64_t n_tokens_ = 0;
};

}  // namespace trireme
