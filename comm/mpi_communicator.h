#pragma once

#include <memory>
#include <vector>

#include "comm/comm_options.h"
#include "comm/communicator.h"
#include "comm/mpi_engine.h"
#include "comm/reduce_ranges.h"

namespace trireme::detail {

// What messages call the operations of one communicator.
struct MpiOpNames {
  const char* all_reduce_tree;
  const char* all_gather;
  const char* send;
  const char* recv;
};
constexpr MpiOpNames kTpOpNames{"all_reduce_tree (tp)", "all_gather (tp)", "send (tp)",
                                "recv (tp)"};
constexpr MpiOpNames kPpOpNames{"all_reduce_tree (pp)", "all_gather (pp)", "send (pp)",
                                "recv (pp)"};

// Ranks of one MPI communicator. Collectives are made of pairwise messages: with at most 16 ranks
// that is what OpenMPI's own nonblocking ones do, and a wait can say which peer is missing.
class MpiCommunicator final : public Communicator {
 public:
  // Ranks in `comm` by their rank there. Allocates all buffers.
  MpiCommunicator(std::shared_ptr<MpiEngine> engine, MpiLibrary::Comm comm, const MpiOpNames& ops,
                  const WorldShape& shape, const CommOptions& options);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_reduce_tree(Stream, const TreePlan& plan, Tensor partials, Tensor out) override;
  void all_gather(Stream, Tensor out, Tensor in) override;
  void send(Stream, Tensor tensor, int peer) override;
  void recv(Stream, Tensor tensor, int peer) override;
  void abort() noexcept override { engine_->abort(); }

 private:
  // The two buffers each way between this rank and one peer, used in turn. Receives are posted
  // ahead, from the first message of a peer on.
  struct Outbox {
    std::vector<MpiSendBuffer*> buffers;
    size_t next = 0;
  };
  struct Inbox {
    std::vector<MpiRecvBuffer*> buffers;
    size_t next = 0;
  };

  void reduce_everywhere(const ReducePiece& piece);
  void reduce_sliced(const ReducePiece& piece);
  const float* pack(const ReducePiece& piece, ElementRange range);
  PartialPointers find_partials(const ReducePiece& piece, ElementRange range) const;
  void post_send(const char* op, int peer, const void* data, size_t size_bytes);
  void post_recv(const char* op, int peer, void* data, size_t size_bytes);
  void wait_posted(const char* op);

  std::shared_ptr<MpiEngine> engine_;
  MpiLibrary::Comm comm_;
  MpiOpNames ops_;
  CommOptions options_;
  size_t piece_bytes_;
  size_t max_message_bytes_;
  int rank_ = 0;
  int size_ = 1;
  std::unique_ptr<float[]> send_staging_;  // this rank's partials, packed by receiver
  std::unique_ptr<float[]> recv_staging_;  // all ranks' partials: [n_nodes, elements]
  std::vector<MpiPending> posted_;         // at most one send and one receive per peer
  std::vector<Outbox> outboxes_;           // [size]
  std::vector<Inbox> inboxes_;             // [size]
};

}  // namespace trireme::detail
