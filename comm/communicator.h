#pragma once

#include <memory>
#include <stdexcept>

#include "kernels/leaf_tree.h"
#include "kernels/tensor.h"

namespace trireme {

// A peer is gone, an operation outlasted its deadline, or the group was aborted. The rank ends its
// process on it (never catch and continue between collectives).
class CommError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A fixed set of ranks that exchange tensors: one per tensor-parallel group and one per pipeline
// chain. Every call is collective over its participants, made by one thread of a rank, in the same
// order on every rank. Every wait carries the deadline the communicator was made with; past it, or
// after abort(), the call throws CommError on every rank.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // out = the sum of all ranks' subtree partials in the fixed tree order, same bits on every rank.
  // partials: float32 [plan.n_nodes_of(rank()), n_elements...] dense; out: float32, as many
  // elements as one partial, dense. n_elements may differ from call to call, up to the maximum the
  // communicator was made for. `out` may alias the first partial only when size() is 1.
  virtual void all_reduce_tree(Stream, const TreePlan& plan, Tensor partials, Tensor out) = 0;

  // out: [size(), in's elements], ranks in order; every rank brings the same number of elements.
  virtual void all_gather(Stream, Tensor out, Tensor in) = 0;

  // Dense tensors of equal size on both sides. Messages between two ranks keep their order. send
  // returns when the tensor may be written again, which may be before the peer received it; at
  // least two messages of the maximum size fit between two ranks before send has to wait.
  virtual void send(Stream, Tensor tensor, int peer) = 0;
  virtual void recv(Stream, Tensor tensor, int peer) = 0;

  // Makes every pending and later call of every rank throw CommError. Callable from any thread.
  virtual void abort() noexcept = 0;
};

// What a rank computes with: its tensor-parallel group, its pipeline chain, and the channel on
// which the last stage gives sampled ids to the first (all three may be the self communicator).
struct RankComms {
  std::unique_ptr<Communicator> tp;  // ranks of one stage, by tp_rank
  std::unique_ptr<Communicator> pp;  // ranks with one tp_rank, by pp_rank
};

}  // namespace trireme
