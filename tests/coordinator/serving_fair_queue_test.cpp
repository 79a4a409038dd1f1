#include "coordinator/serving/fair_queue.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace trireme {
namespace {

// A queue and the sequences that are in it.
struct Queued {
  Sequence& add(const std::string& tenant, int32_t priority = 0, int32_t n_prompt = 10) {
    Sequence& sequence = sequences.emplace_back();
    sequence.id = ++last_id;
    sequence.log.request.tenant = tenant;
    sequence.log.request.priority = priority;
    sequence.log.request.prompt_ids.resize(static_cast<size_t>(n_prompt));
    queue.join(sequence);
    queue.insert(sequence);
    return sequence;
  }
  // It is computed to the end, and goes.
  void serve(Sequence& sequence, int32_t n_tokens) {
    queue.erase(sequence);
    FairQueue::charge(sequence, 0, n_tokens);
    queue.leave(sequence);
  }
  std::vector<RequestId> order(int32_t n_tokens_each) const {
    std::vector<RequestId> ids;
    FairQueue::Walk walk(queue);
    while (Sequence* next = walk.next()) {
      ids.push_back(next->id);
      FairQueue::charge(*next, 0, n_tokens_each);
    }
    return ids;
  }

  FairQueue queue;
  std::deque<Sequence> sequences;
  RequestId last_id = 0;
};

using Ids = std::vector<RequestId>;

TEST(FairQueue, PriorityComesFirstThenShareThenAge) {
  Queued q;
  q.add("a");      // 1
  q.add("a");      // 2
  q.add("a", -1);  // 3
  q.add("b");      // 4
  q.add("b", 1);   // 5
  q.add("c");      // 6
  EXPECT_EQ(q.queue.size(), 6);
  EXPECT_EQ(q.queue.n_tokens(), 60);
  EXPECT_EQ(q.queue.first()->id, 3U);
  EXPECT_EQ(q.order(0), (Ids{3, 1, 2, 4, 6, 5})) << "by age where nothing is charged";
  EXPECT_EQ(q.order(10), (Ids{3, 4, 6, 1, 2, 5})) << "the first was a's share";
}

TEST(FairQueue, TenantsTakeTurns) {
  Queued q;
  for (int i = 0; i < 4; ++i) q.add("a");  // 1 to 4
  for (int i = 0; i < 2; ++i) q.add("b");  // 5, 6
  EXPECT_EQ(q.order(10), (Ids{1, 5, 2, 6, 3, 4}));
}

// By what they are served, not by how often.
TEST(FairQueue, LongRequestsCountForMore) {
  Queued q;
  for (int i = 0; i < 3; ++i) q.add("a");  // of 30 tokens
  for (int i = 0; i < 6; ++i) q.add("b");  // of 10 tokens
  std::string turns;
  FairQueue::Walk walk(q.queue);
  while (Sequence* next = walk.next()) {
    const std::string& tenant = next->log.request.tenant;
    FairQueue::charge(*next, 0, tenant == "a" ? 30 : 10);
    turns += tenant;
  }
  EXPECT_EQ(turns, "abbbabbba");
}

TEST(FairQueue, WhatIsComputedAgainIsNotServedAgain) {
  Queued q;
  Sequence& a = q.add("a");
  FairQueue::charge(a, 4, 10);  // four were cached
  EXPECT_EQ(a.tenant->n_served, 6);
  FairQueue::charge(a, 0, 10);
  EXPECT_EQ(a.tenant->n_served, 6);
  FairQueue::charge(a, 8, 12);
  EXPECT_EQ(a.tenant->n_served, 8);
}

// Neither for the time before it came, nor for that in which it had nothing to do.
TEST(FairQueue, NobodyIsOwedForIdleness) {
  Queued q;
  Sequence& first = q.add("a");
  q.add("a");
  FairQueue::charge(first, 0, 1000);
  Sequence& b = q.add("b");
  EXPECT_EQ(b.tenant->n_served, 1000);
  q.serve(b, 50);
  FairQueue::charge(first, 1000, 5000);
  Sequence& again = q.add("b");
  EXPECT_EQ(again.tenant->n_served, 5000);
}

// Or one would be served as new with each request.
TEST(FairQueue, WhoWasServedMoreIsRememberedWhileOthersAreThere) {
  Queued q;
  q.add("a");
  q.serve(q.add("b"), 500);
  EXPECT_EQ(q.add("b").tenant->n_served, 500);
  EXPECT_EQ(q.queue.first()->log.request.tenant, "a");
}

TEST(FairQueue, WhoIsGoneIsForgotten) {
  Queued q;
  Sequence& a = q.add("a");
  for (int i = 0; i < 1000; ++i) {
    q.serve(q.add("t" + std::to_string(i)), 10);
    FairQueue::charge(a, 10 * i, 10 * i + 10);
    EXPECT_LE(q.queue.n_tenants(), 3U);
  }
  q.serve(a, 0);
  EXPECT_EQ(q.queue.n_tenants(), 0U) << "with the last one, all that was served is";
  EXPECT_EQ(q.queue.first(), nullptr);
  EXPECT_EQ(q.add("a").tenant->n_served, 0);
}

// Tenants come, go and come back, some of them with far more than others: whoever waits has a turn
// before each of the others has had two more than it takes to serve them as much.
TEST(FairQueue, NobodyStarves) {
  constexpr int kTenants = 6;
  constexpr int32_t kMostTokens = 100;
  std::mt19937_64 random(3);
  const auto pick = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  Queued q;
  std::map<std::string, int> n_waiting;
  std::map<std::string, int64_t> others_got;  // since its last turn, while it waits
  for (int turn = 0; turn < 20000; ++turn) {
    while (q.queue.empty() || pick(0, 2) == 0) {
      // Tenant 0 always has more than it gets; the others are there now and then.
      const std::string tenant = std::to_string(pick(0, 1) == 0 ? 0 : pick(1, kTenants - 1));
      if (n_waiting[tenant]++ == 0) others_got[tenant] = 0;
      q.add(tenant);
    }
    Sequence& next = *q.queue.first();
    const std::string tenant = next.log.request.tenant;
    const int32_t n_tokens = pick(1, kMostTokens);
    q.serve(next, n_tokens);
    --n_waiting[tenant];
    others_got[tenant] = 0;
    for (auto& [other, got] : others_got) {
      if (other == tenant || n_waiting[other] == 0) continue;
      got += n_tokens;
      ASSERT_LE(got, 2 * kTenants * kMostTokens) << other << " starves";
    }
  }
}

TEST(FairQueue, TheLastOfTheOrderGivesItsBlocksFirst) {
  Queued q;
  q.add("a").kv.blocks = {1};
  q.add("b").kv.blocks = {2};
  q.add("b");
  Sequence& served = q.add("a");
  EXPECT_EQ(q.queue.last_with_blocks()->id, 2U);
  FairQueue::charge(served, 0, 10);
  EXPECT_EQ(q.queue.last_with_blocks()->id, 1U);
  q.add("c", 5).kv.blocks = {3};
  EXPECT_EQ(q.queue.last_with_blocks()->id, 5U);
}

}  // namespace
}  // namespace trireme
