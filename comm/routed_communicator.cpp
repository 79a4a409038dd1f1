#include "comm/routed_communicator.h"

#include <algorithm>

namespace trireme::detail {

RoutedCommunicator::RoutedCommunicator(std::unique_ptr<Communicator> region,
                                       std::unique_ptr<Communicator> mpi, std::vector<char> near)
    : region_(std::move(region)),
      mpi_(std::move(mpi)),
      near_(std::move(near)),
      all_near_(
          std::all_of(near_.begin(), near_.end(), [](char is_near) { return is_near != 0; })) {
  TRIREME_CHECK(region_->size() == mpi_->size() && region_->rank() == mpi_->rank());
  TRIREME_CHECK(near_.size() == static_cast<size_t>(mpi_->size()));
}

Communicator& RoutedCommunicator::for_peer(int peer) {
  TRIREME_CHECK(peer >= 0 && peer < size());
  return near_[static_cast<size_t>(peer)] != 0 ? *region_ : *mpi_;
}

template <typename Call>
void RoutedCommunicator::call(Call body) {
  try {
    body();
  } catch (const CommError&) {
    abort();
    throw;
  }
}

void RoutedCommunicator::all_reduce_tree(Stream stream, const TreePlan& plan, Tensor partials,
                                         Tensor out) {
  call([&] { for_collectives().all_reduce_tree(stream, plan, partials, out); });
}

void RoutedCommunicator::all_gather(Stream stream, Tensor out, Tensor in) {
  call([&] { for_collectives().all_gather(stream, out, in); });
}

void RoutedCommunicator::send(Stream stream, Tensor tensor, int peer) {
  call([&] { for_peer(peer).send(stream, tensor, peer); });
}

void RoutedCommunicator::recv(Stream stream, Tensor tensor, int peer) {
  call([&] { for_peer(peer).recv(stream, tensor, peer); });
}

void RoutedCommunicator::abort() noexcept {
  region_->abort();
  mpi_->abort();
}

}  // namespace trireme::detail
