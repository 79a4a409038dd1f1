#pragma once

#include <cstdint>
#include <string_view>

#include "comm/control/unique_fd.h"
#include "comm/memory_address.h"

namespace trireme {

// The memory of a rank's KV pool where it outlives the rank: a memfd of the coordinator's on the
// same host. The next rank in this place goes on with what confirmed steps put there. A rank that
// crashes by its own fault marks it as not to be trusted. One in a process at a time.
class KvMemory {
 public:
  // `content` names everything that the content depends on but the number of blocks. Without an
  // address, or out of its reach, there is none.
  KvMemory(const MemoryAddress& address, std::string_view content);
  ~KvMemory();
  KvMemory(const KvMemory&) = delete;
  KvMemory& operator=(const KvMemory&) = delete;

  // Blocks of such content that the last rank left; 0: nothing that could be used.
  int32_t n_kept_blocks() const { return n_kept_blocks_; }

  // Makes it the memory of a pool of n_blocks, zeroed unless it is to be kept, which needs as many
  // kept blocks. The pool's bytes begin at kOffset of the file. -1: there is none.
  int prepare(uint64_t size_bytes, int32_t n_blocks, bool keep);
  static constexpr uint64_t kOffset = 2U << 20;  // so that large pages fit

 private:
  struct Header;
  void map_header();

  UniqueFd fd_;
  uint64_t content_ = 0;
  int32_t n_kept_blocks_ = 0;
  Header* header_ = nullptr;
};

}  // namespace trireme
