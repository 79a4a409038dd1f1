#pragma once

#include <atomic>

#include "comm/communicator.h"

namespace trireme {

// The communicator of a rank that is alone: collectives copy, and there is nobody to send to.
class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_tree(Stream, const TreePlan& plan, Tensor partials, Tensor out) override;
  void all_gather(Stream, Tensor out, Tensor in) override;
  void send(Stream, Tensor tensor, int peer) override;
  void recv(Stream, Tensor tensor, int peer) override;
  void abort() noexcept override { aborted_.store(true, std::memory_order_release); }

 private:
  void throw_if_aborted(const char* op) const;

  std::atomic<bool> aborted_{false};
};

}  // namespace trireme
