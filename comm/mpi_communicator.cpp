#include "comm/mpi_communicator.h"

#include <algorithm>

namespace trireme::detail {
namespace {

constexpr int kCollectiveTag = 2;
constexpr int kMessageTag = 3;
constexpr int kBuffersPerPeer = 2;

size_t bytes_of(int64_t n_floats) { return static_cast<size_t>(n_floats) * sizeof(float); }

}  // namespace

MpiCommunicator::MpiCommunicator(std::shared_ptr<MpiEngine> engine, MpiLibrary::Comm comm,
                                 const MpiOpNames& ops, const WorldShape& shape,
                                 const CommOptions& options)
    : engine_(std::move(engine)),
      comm_(comm),
      ops_(ops),
      options_(options),
      piece_bytes_(shape.piece_bytes),
      max_message_bytes_(shape.max_message_bytes) {
  engine_->mpi().comm_rank(comm_, &rank_);
  engine_->mpi().comm_size(comm_, &size_);
  if (size_ == 1) return;
  // Slices are rounded up to whole cache lines, so all rows of a piece may need a line more each.
  const size_t n_floats = piece_bytes_ / sizeof(float) + size_t{kMaxLeaves} * kRangeStep;
  send_staging_.reset(new float[n_floats]);
  recv_staging_.reset(new float[n_floats]);
  posted_.reserve(2 * static_cast<size_t>(size_));
  outboxes_.resize(static_cast<size_t>(size_));
  inboxes_.resize(static_cast<size_t>(size_));
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    outboxes_[static_cast<size_t>(peer)].buffers =
        engine_->make_send_buffers(kBuffersPerPeer, max_message_bytes_);
  }
}

void MpiCommunicator::all_reduce_tree(Stream, const TreePlan& plan, Tensor partials, Tensor out) {
  check_all_reduce(plan, rank_, size_, partials, out);
  engine_->throw_if_aborted(ops_.all_reduce_tree);
  if (size_ == 1) return copy_tensor(out, partials);

  const int64_t n = out.n_elements();
  const bool sliced = static_cast<int64_t>(out.size_bytes()) >= options_.sliced_from_bytes;
  const int n_rows = sliced ? max_nodes_per_rank(plan, size_) : plan.n_nodes();
  const int64_t step = piece_elements(piece_bytes_, n_rows);
  for (int64_t begin = 0; begin < n; begin += step) {
    const ReducePiece piece{
        plan, partials.as<float>(), out.as<float>(), n, {begin, std::min(n, begin + step)}};
    sliced ? reduce_sliced(piece) : reduce_everywhere(piece);
  }
}

void MpiCommunicator::reduce_everywhere(const ReducePiece& piece) {
  const ElementRange whole{0, piece.elements.size()};
  const float* packed = pack(piece, whole);
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const int32_t first = piece.plan.first_node[static_cast<size_t>(peer)];
    post_recv(ops_.all_reduce_tree, peer, recv_staging_.get() + first * whole.size(),
              bytes_of(piece.plan.n_nodes_of(peer) * whole.size()));
  }
  const size_t size_bytes = bytes_of(piece.plan.n_nodes_of(rank_) * whole.size());
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank_) post_send(ops_.all_reduce_tree, peer, packed, size_bytes);
  }
  wait_posted(ops_.all_reduce_tree);
  sum_tree(piece.plan, find_partials(piece, whole).data(), piece.out + piece.elements.begin,
           whole.size());
}

void MpiCommunicator::reduce_sliced(const ReducePiece& piece) {
  const int64_t n = piece.elements.size();
  const ElementRange mine = slice_of(n, rank_, size_);
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const int32_t first = piece.plan.first_node[static_cast<size_t>(peer)];
    post_recv(ops_.all_reduce_tree, peer, recv_staging_.get() + first * mine.size(),
              bytes_of(piece.plan.n_nodes_of(peer) * mine.size()));
  }
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const ElementRange range = slice_of(n, peer, size_);
    post_send(ops_.all_reduce_tree, peer, pack(piece, range),
              bytes_of(piece.plan.n_nodes_of(rank_) * range.size()));
  }
  wait_posted(ops_.all_reduce_tree);

  float* out = piece.out + piece.elements.begin;
  sum_tree(piece.plan, find_partials(piece, mine).data(), out + mine.begin, mine.size());
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    const ElementRange range = slice_of(n, peer, size_);
    post_recv(ops_.all_reduce_tree, peer, out + range.begin, bytes_of(range.size()));
    post_send(ops_.all_reduce_tree, peer, out + mine.begin, bytes_of(mine.size()));
  }
  wait_posted(ops_.all_reduce_tree);
}

// This rank's partials of `range` of the piece as [n_nodes, range]: in place where they lie so.
const float* MpiCommunicator::pack(const ReducePiece& piece, ElementRange range) {
  const int n_nodes = piece.plan.n_nodes_of(rank_);
  const float* from = piece.partials + piece.elements.begin + range.begin;
  if (n_nodes == 1 || range.size() == piece.n_elements) return from;
  float* packed = send_staging_.get() + n_nodes * range.begin;
  for (int j = 0; j < n_nodes; ++j) {
    std::copy_n(from + j * piece.n_elements, range.size(), packed + j * range.size());
  }
  return packed;
}

// The own partials are read in place, the others' where they were received.
PartialPointers MpiCommunicator::find_partials(const ReducePiece& piece, ElementRange range) const {
  PartialPointers out{};
  const int32_t own_first = piece.plan.first_node[static_cast<size_t>(rank_)];
  for (int i = 0; i < piece.plan.n_nodes(); ++i) {
    out[static_cast<size_t>(i)] = recv_staging_.get() + i * range.size();
  }
  for (int j = 0; j < piece.plan.n_nodes_of(rank_); ++j) {
    out[static_cast<size_t>(own_first + j)] =
        piece.partials + j * piece.n_elements + piece.elements.begin + range.begin;
  }
  return out;
}

void MpiCommunicator::all_gather(Stream, Tensor out, Tensor in) {
  check_all_gather(size_, out, in);
  engine_->throw_if_aborted(ops_.all_gather);
  if (size_ == 1) return copy_tensor(out, in);
  auto* to = static_cast<std::byte*>(out.data);
  const size_t n_bytes = in.size_bytes();
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    post_recv(ops_.all_gather, peer, to + static_cast<size_t>(peer) * n_bytes, n_bytes);
    post_send(ops_.all_gather, peer, in.data, n_bytes);
  }
  std::memcpy(to + static_cast<size_t>(rank_) * n_bytes, in.data, n_bytes);
  wait_posted(ops_.all_gather);
}

void MpiCommunicator::send(Stream, Tensor tensor, int peer) {
  check_host_dense(tensor);
  TRIREME_CHECK(peer >= 0 && peer < size_ && peer != rank_);
  engine_->throw_if_aborted(ops_.send);
  Outbox& outbox = outboxes_[static_cast<size_t>(peer)];
  const auto* from = static_cast<const std::byte*>(tensor.data);
  for (size_t begin = 0; begin < tensor.size_bytes(); begin += max_message_bytes_) {
    const size_t n = std::min(max_message_bytes_, tensor.size_bytes() - begin);
    MpiSendBuffer& buffer = *outbox.buffers[outbox.next];
    outbox.next = (outbox.next + 1) % kBuffersPerPeer;
    engine_->wait_free(ops_.send, buffer, peer, options_.deadline);
    std::memcpy(buffer.data.get(), from + begin, n);
    engine_->start_send(ops_.send, buffer, {comm_, peer, kMessageTag, n});
  }
}

void MpiCommunicator::recv(Stream, Tensor tensor, int peer) {
  check_host_dense(tensor);
  TRIREME_CHECK(peer >= 0 && peer < size_ && peer != rank_);
  engine_->throw_if_aborted(ops_.recv);
  const MpiRoute route{comm_, peer, kMessageTag, max_message_bytes_};
  Inbox& inbox = inboxes_[static_cast<size_t>(peer)];
  if (inbox.buffers.empty()) {
    inbox.buffers = engine_->make_recv_buffers(kBuffersPerPeer, max_message_bytes_);
    for (MpiRecvBuffer* buffer : inbox.buffers) engine_->start_recv(ops_.recv, *buffer, route);
  }
  auto* to = static_cast<std::byte*>(tensor.data);
  for (size_t begin = 0; begin < tensor.size_bytes(); begin += max_message_bytes_) {
    const size_t n = std::min(max_message_bytes_, tensor.size_bytes() - begin);
    MpiRecvBuffer& buffer = *inbox.buffers[inbox.next];
    inbox.next = (inbox.next + 1) % kBuffersPerPeer;
    engine_->wait_received(ops_.recv, buffer, options_.deadline);
    TRIREME_CHECK_MSG(buffer.size_bytes == static_cast<int64_t>(n),
                      "sender and receiver disagree on the size");
    std::memcpy(to + begin, buffer.data.get(), n);
    engine_->start_recv(ops_.recv, buffer, route);
  }
}

void MpiCommunicator::post_send(const char* op, int peer, const void* data, size_t size_bytes) {
  if (size_bytes == 0) return;  // an empty slice; the receiver knows
  posted_.push_back(engine_->post_send(op, data, {comm_, peer, kCollectiveTag, size_bytes}));
}

void MpiCommunicator::post_recv(const char* op, int peer, void* data, size_t size_bytes) {
  if (size_bytes == 0) return;
  posted_.push_back(engine_->post_recv(op, data, {comm_, peer, kCollectiveTag, size_bytes}));
}

void MpiCommunicator::wait_posted(const char* op) {
  engine_->wait(op, posted_, options_.deadline);
  posted_.clear();
}

}  // namespace trireme::detail
