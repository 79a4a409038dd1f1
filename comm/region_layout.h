#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/comm_options.h"

namespace trireme {

constexpr size_t kCacheLine = 64;

// What lies in the shared memory. Every field that two ranks touch is a lock-free atomic on a cache
// line of its own kind of use; payload bytes are handed over by release and acquire on them.
struct RegionHeader {
  uint64_t magic = 0;
  WorldShape shape;  // written once by the creator, before anyone attaches
  alignas(kCacheLine) std::atomic<uint32_t> aborted{0};
};

// One rank inside one communicator.
struct MemberControl {
  // How many exchange steps this rank has published; only it writes.
  alignas(kCacheLine) std::atomic<uint32_t> step{0};
  // What this rank sleeps on: whoever changes something it may wait for rings.
  alignas(kCacheLine) std::atomic<uint32_t> doorbell{0};
  std::atomic<uint32_t> sleeping{0};
};

// A single-producer single-consumer byte ring from one rank to another.
struct MailboxControl {
  alignas(kCacheLine) std::atomic<uint64_t> written{0};  // bytes ever written
  alignas(kCacheLine) std::atomic<uint64_t> read{0};     // bytes ever read
};

static_assert(std::atomic<uint32_t>::is_always_lock_free);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// Offsets in bytes from the start of the region. A group of one rank has members only.
struct GroupLayout {
  int n_members = 0;
  size_t members = 0;    // MemberControl [n_members]
  size_t mailboxes = 0;  // MailboxControl [n_members (from), n_members (to)]
  size_t slots = 0;      // bytes [n_members, 2, slot_bytes]
  size_t rings = 0;      // bytes [n_members (from), n_members (to), ring_bytes]
};

struct RegionLayout {
  size_t slot_bytes = 0;
  size_t ring_bytes = 0;
  std::vector<GroupLayout> groups;  // tensor-parallel groups by pp_rank, then chains by tp_rank
  size_t size_bytes = 0;

  size_t slot(int group, int member, uint32_t step) const;
  size_t mailbox(int group, int from, int to) const;
  size_t ring(int group, int from, int to) const;
};

// Memory that is never touched is never backed by pages, so the size is address space, not cost.
RegionLayout make_region_layout(const WorldShape& shape);

}  // namespace trireme
