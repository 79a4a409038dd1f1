#include "comm/self_communicator.h"

#include <string>

#include "comm/reduce_ranges.h"

namespace trireme {

void SelfCommunicator::all_reduce_tree(Stream, const TreePlan& plan, Tensor partials, Tensor out) {
  check_all_reduce(plan, 0, 1, partials, out);
  throw_if_aborted("all_reduce_tree");
  copy_tensor(out, partials);  // one rank owns the whole tree: its only partial is the sum
}

void SelfCommunicator::all_gather(Stream, Tensor out, Tensor in) {
  check_all_gather(1, out, in);
  throw_if_aborted("all_gather");
  copy_tensor(out, in);
}

void SelfCommunicator::send(Stream, Tensor, int) {
  TRIREME_CHECK_MSG(false, "a rank that is alone has nobody to send to");
}

void SelfCommunicator::recv(Stream, Tensor, int) {
  TRIREME_CHECK_MSG(false, "a rank that is alone has nobody to receive from");
}

void SelfCommunicator::throw_if_aborted(const char* op) const {
  if (aborted_.load(std::memory_order_acquire)) {
    throw CommError(std::string(op) + ": the group was aborted");
  }
}

}  // namespace trireme
