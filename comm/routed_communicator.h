#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace trireme::detail {

// Ranks of an MPI job of which some share a host: messages between those, and collectives where all
// do, go through shared memory. The choice is the same on every rank it concerns, and the bits are
// the same either way.
class RoutedCommunicator final : public Communicator {
 public:
  // Both of the same ranks. near: [size] by rank, whether the region reaches it; this rank's own
  // is 1.
  RoutedCommunicator(std::unique_ptr<Communicator> region, std::unique_ptr<Communicator> mpi,
                     std::vector<char> near);

  int rank() const override { return mpi_->rank(); }
  int size() const override { return mpi_->size(); }
  void all_reduce_tree(Stream, const TreePlan& plan, Tensor partials, Tensor out) override;
  void all_gather(Stream, Tensor out, Tensor in) override;
  void send(Stream, Tensor tensor, int peer) override;
  void recv(Stream, Tensor tensor, int peer) override;
  void abort() noexcept override;

 private:
  Communicator& for_collectives() { return all_near_ ? *region_ : *mpi_; }
  Communicator& for_peer(int peer);
  // A rank that gives up on one way may be waited for on the other.
  template <typename Call>
  void call(Call body);

  std::unique_ptr<Communicator> region_;
  std::unique_ptr<Communicator> mpi_;
  std::vector<char> near_;  // [size]
  bool all_near_;
};

}  // namespace trireme::detail
