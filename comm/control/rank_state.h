#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "comm/layout.h"
#include "comm/memory_address.h"
#include "kernels/tensor.h"

namespace trireme {

// What a rank is doing, as its heartbeats tell.
enum class RankActivity : uint8_t { kLoading, kIdle, kComputing, kWaiting };

struct RankState {
  uint64_t tick = 0;  // grows with every piece of progress
  RankActivity activity = RankActivity::kLoading;
  int32_t waiting_op = 0;     // which collective (row of wait_op_name)
  int32_t waiting_peer = -1;  // world rank, -1: any
  uint64_t loaded_bytes = 0;
  uint64_t total_bytes = 0;
  uint64_t busy_us = 0;        // time spent computing since start
  uint64_t comm_us = 0;        // time spent in collectives since start
  uint64_t stage_wait_us = 0;  // of that, with other stages: for what they send, or to be rid of it
};

// First words of a rank to the coordinator.
struct RankHello {
  std::string secret;
  uint64_t epoch = 0;
  int32_t world_rank = 0;
  int32_t world_size = 0;
  int64_t pid = 0;
  std::string host;
  std::string build;  // version of the binary: must equal the coordinator's
};

// A packed weights file. A server numbers those that it serves one after another, from 1 on: plans
// and sequences name them by that generation.
struct WeightsFile {
  uint64_t generation = 0;
  std::string path;          // readable on the ranks' hosts
  uint64_t fingerprint = 0;  // PackedModel::fingerprint
  bool operator==(const WeightsFile&) const = default;
};

// A generation of which answers are drawn still, and the one that replaced it.
constexpr size_t kMaxGenerations = 2;

// Coordinator to ranks, about a generation of weights. Carried out in order with the plans.
struct WeightsOrder {
  enum class Kind : uint8_t {
    kPrepare,  // map the file and compare the checksums of the rank's blocks; then say so
    kCommit,   // plans of it follow
    kDrop,     // unmap it: no plan of it follows
  };
  Kind kind = Kind::kPrepare;
  WeightsFile file;  // whole for kPrepare, else its generation alone
};

// A rank's answer to kPrepare.
struct WeightsPrepared {
  uint64_t generation = 0;
  uint64_t fingerprint = 0;  // as found
  std::string numerics_id;   // as of RankReady
  std::string failure;       // why it is not prepared, one line; else empty
};

// What a rank must do, all it needs to know. Sent in answer to the hello.
struct JobSpec {
  std::vector<WeightsFile> weights;  // oldest first, at most kMaxGenerations
  std::string model_path;  // the Hugging Face folder it was made from (for packing on the spot)
  Layout layout;
  int32_t hidden_size = 0;  // with max_batch_tokens, the size of messages between stages
  int32_t n_threads = 0;    // 0: the cores of the rank's host over its ranks
  int32_t replica = 0;      // which of n_replicas on the same hosts
  int32_t n_replicas = 1;
  int32_t context_length = 0;     // longest sequence served
  int32_t max_slots = 0;          // sequences at once
  int32_t max_batch_tokens = 0;   // tokens in one step
  int64_t kv_bytes = 0;           // KV pool of this rank at most; 0: enough for max_slots * context
  DType kv_dtype = DType::kBF16;  // of the KV cache: float32, bf16 or int8
  bool fuse = true;               // operators, with the same bits
  MemoryAddress kv_memory;        // for the rank's KV pool, on kv_host (comm/rank_place this_host)
  std::string kv_host;
  int32_t max_plans_in_flight = 1;
  int32_t heartbeat_ms = 50;
  int32_t silence_ms = 3000;  // a rank whose connection brings nothing for this long exits
  // So does one on another host than the coordinator that hears nothing in any way for this long:
  // the network is cut, and the coordinator has given it up. 0: it does not.
  int32_t cut_off_ms = 0;
  int32_t comm_timeout_ms = 30000;
  std::string
      heartbeat_salt;  // of this launch (comm/control/heartbeat_datagram); empty: no datagrams
};

// A rank is loaded and can step.
struct RankReady {
  int32_t kv_blocks = 0;    // blocks its KV pool can hold
  int32_t kv_kept = 0;      // blocks that are still there of a rank before it
  std::string numerics_id;  // build, backend, instruction set, format, KV type
  std::string device;       // "cpu:avx512, 2 threads"
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t workspace_bytes = 0;  // of a step
};

// The group starts: every rank uses this many KV blocks (the minimum over the ranks).
struct GroupStart {
  int32_t kv_blocks = 0;
  bool keep_kv = false;  // with what is in them; every rank has kept as many
};

}  // namespace trireme
