#include "comm/region_communicator.h"

#include <algorithm>
#include <cstring>

#include "comm/stream_copy.h"

namespace trireme::detail {
namespace {

// Bytes handed over at a time: the peer copies them out while the next are copied in.
constexpr size_t kStreamChunk = size_t{256} << 10;

size_t bytes_of(ElementRange range) { return static_cast<size_t>(range.size()) * sizeof(float); }

// Where node j of a piece starts in a slot, in floats: rows begin on whole cache lines.
int64_t slot_row(int j, int64_t n) { return j * round_up(n, kRangeStep); }

}  // namespace

RegionCommunicator::RegionCommunicator(std::shared_ptr<RegionMapping> mapping, RegionSeat seat,
                                       const CommOptions& options)
    : mapping_(std::move(mapping)),
      seat_(seat),
      size_(mapping_->layout().groups[static_cast<size_t>(seat.group)].n_members),
      sliced_from_bytes_(options.sliced_from_bytes),
      waiter_(*mapping_, member(seat.rank), seat.kind, options.deadline),
      step_(member(seat.rank).step.load(std::memory_order_acquire)) {
  TRIREME_CHECK(seat.rank >= 0 && seat.rank < size_);
}

void RegionCommunicator::all_reduce_tree(Stream, const TreePlan& plan, Tensor partials,
                                         Tensor out) {
  check_all_reduce(plan, rank(), size_, partials, out);
  waiter_.throw_if_aborted("all_reduce_tree");
  if (size_ == 1) return copy_tensor(out, partials);

  const int64_t n = out.n_elements();
  const bool sliced = static_cast<int64_t>(out.size_bytes()) >= sliced_from_bytes_;
  const int64_t step =
      piece_elements(mapping_->layout().slot_bytes, max_nodes_per_rank(plan, size_));
  for (int64_t begin = 0; begin < n; begin += step) {
    const ReducePiece piece{
        plan, partials.as<float>(), out.as<float>(), n, {begin, std::min(n, begin + step)}};
    sliced ? reduce_sliced(piece) : reduce_everywhere(piece);
  }
}

void RegionCommunicator::reduce_everywhere(const ReducePiece& piece) {
  const int64_t n = piece.elements.size();
  ++step_;
  copy_partials(piece, {0, n}, reinterpret_cast<float*>(slot(rank(), step_)));
  publish_step();
  wait_for_step("all_reduce_tree");
  const PartialPointers partials = find_partials(piece, step_);
  sum_tree(piece.plan, partials.data(), piece.out + piece.elements.begin, n);
}

void RegionCommunicator::reduce_sliced(const ReducePiece& piece) {
  const int64_t n = piece.elements.size();
  const ElementRange mine = slice_of(n, rank(), size_);
  ++step_;
  auto* own_slot = reinterpret_cast<float*>(slot(rank(), step_));
  copy_partials(piece, {0, mine.begin}, own_slot);  // nobody else reads this rank's slice
  copy_partials(piece, {mine.end, n}, own_slot);
  publish_step();
  wait_for_step("all_reduce_tree");

  float* out = piece.out + piece.elements.begin;
  PartialPointers partials = find_partials(piece, step_);
  for (int i = 0; i < piece.plan.n_nodes(); ++i) partials[static_cast<size_t>(i)] += mine.begin;
  sum_tree(piece.plan, partials.data(), out + mine.begin, mine.size());

  ++step_;
  stream_copy(slot(rank(), step_), out + mine.begin, bytes_of(mine));
  publish_step();
  wait_for_step("all_reduce_tree");
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank()) continue;
    const ElementRange range = slice_of(n, peer, size_);
    std::copy_n(reinterpret_cast<const float*>(slot(peer, step_)), range.size(), out + range.begin);
  }
}

// Copies `range` of this rank's partials of a piece to the same place of every row of the slot.
void RegionCommunicator::copy_partials(const ReducePiece& piece, ElementRange range,
                                       float* to) const {
  const float* from = piece.partials + piece.elements.begin;
  for (int j = 0; j < piece.plan.n_nodes_of(rank()); ++j) {
    stream_copy(to + slot_row(j, piece.elements.size()) + range.begin,
                from + j * piece.n_elements + range.begin, bytes_of(range));
  }
}

// The own partials are read in place, the others' from their slots.
PartialPointers RegionCommunicator::find_partials(const ReducePiece& piece, uint32_t step) const {
  PartialPointers out{};
  size_t next = 0;
  for (int peer = 0; peer < size_; ++peer) {
    const auto* base = reinterpret_cast<const float*>(slot(peer, step));
    for (int j = 0; j < piece.plan.n_nodes_of(peer); ++j) {
      out[next++] = peer == rank() ? piece.partials + j * piece.n_elements + piece.elements.begin
                                   : base + slot_row(j, piece.elements.size());
    }
  }
  return out;
}

void RegionCommunicator::all_gather(Stream, Tensor out, Tensor in) {
  check_all_gather(size_, out, in);
  waiter_.throw_if_aborted("all_gather");
  if (size_ == 1) return copy_tensor(out, in);

  const size_t n_bytes = in.size_bytes();
  const size_t step_bytes = mapping_->layout().slot_bytes;
  const auto* from = static_cast<const std::byte*>(in.data);
  auto* to = static_cast<std::byte*>(out.data);
  for (size_t begin = 0; begin < n_bytes; begin += step_bytes) {
    const size_t n = std::min(step_bytes, n_bytes - begin);
    ++step_;
    stream_copy(slot(rank(), step_), from + begin, n);
    publish_step();
    wait_for_step("all_gather");
    for (int peer = 0; peer < size_; ++peer) {
      const std::byte* source = peer == rank() ? from + begin : slot(peer, step_);
      std::memcpy(to + static_cast<size_t>(peer) * n_bytes + begin, source, n);
    }
  }
}

void RegionCommunicator::publish_step() {
  member(rank()).step.store(step_, std::memory_order_seq_cst);
  for (int peer = 0; peer < size_; ++peer) {
    if (peer != rank()) ring_doorbell(member(peer));
  }
}

void RegionCommunicator::wait_for_step(const char* op) {
  waiter_.wait(op, [this] {
    for (int peer = 0; peer < size_; ++peer) {
      const uint32_t reached = member(peer).step.load(std::memory_order_seq_cst);
      if (static_cast<int32_t>(reached - step_) < 0) return peer;  // the counter may wrap
    }
    return RegionWaiter::kNobody;
  });
}

// A message is one cache line with its size and then its bytes, padded to whole lines.
void RegionCommunicator::send(Stream, Tensor tensor, int peer) {
  check_host_dense(tensor);
  TRIREME_CHECK(peer >= 0 && peer < size_ && peer != rank());
  std::array<std::byte, kCacheLine> header{};
  const uint64_t size_bytes = tensor.size_bytes();
  std::memcpy(header.data(), &size_bytes, sizeof size_bytes);
  stream_out(peer, header.data(), header.size());
  stream_out(peer, static_cast<const std::byte*>(tensor.data), size_bytes);
}

void RegionCommunicator::recv(Stream, Tensor tensor, int peer) {
  check_host_dense(tensor);
  TRIREME_CHECK(peer >= 0 && peer < size_ && peer != rank());
  std::array<std::byte, kCacheLine> header{};
  stream_in(peer, header.data(), header.size());
  uint64_t size_bytes = 0;
  std::memcpy(&size_bytes, header.data(), sizeof size_bytes);
  TRIREME_CHECK_MSG(size_bytes == tensor.size_bytes(), "sender and receiver disagree on the size");
  stream_in(peer, static_cast<std::byte*>(tensor.data), size_bytes);
}

void RegionCommunicator::stream_out(int peer, const std::byte* data, size_t size_bytes) {
  MailboxControl& box = mapping_->mailbox(seat_.group, rank(), peer);
  std::byte* ring = mapping_->ring(seat_.group, rank(), peer);
  const size_t capacity = mapping_->layout().ring_bytes;
  uint64_t written = box.written.load(std::memory_order_relaxed);
  for (size_t done = 0; done < size_bytes;) {
    size_t room = 0;
    waiter_.wait("send", [&] {
      room = capacity - static_cast<size_t>(written - box.read.load(std::memory_order_seq_cst));
      return room > 0 ? RegionWaiter::kNobody : peer;
    });
    const size_t at = static_cast<size_t>(written % capacity);
    const size_t n = std::min({room, capacity - at, size_bytes - done, kStreamChunk});
    stream_copy(ring + at, data + done, n);
    done += n;
    // Room is freed and taken in whole lines, so the next header never wraps.
    written += done == size_bytes ? round_up(n, kCacheLine) : n;
    box.written.store(written, std::memory_order_seq_cst);
    ring_doorbell(member(peer));
  }
}

void RegionCommunicator::stream_in(int peer, std::byte* data, size_t size_bytes) {
  MailboxControl& box = mapping_->mailbox(seat_.group, peer, rank());
  const std::byte* ring = mapping_->ring(seat_.group, peer, rank());
  const size_t capacity = mapping_->layout().ring_bytes;
  uint64_t read = box.read.load(std::memory_order_relaxed);
  for (size_t done = 0; done < size_bytes;) {
    size_t ready = 0;
    waiter_.wait("recv", [&] {
      ready = static_cast<size_t>(box.written.load(std::memory_order_seq_cst) - read);
      return ready > 0 ? RegionWaiter::kNobody : peer;
    });
    const size_t at = static_cast<size_t>(read % capacity);
    const size_t n = std::min({ready, capacity - at, size_bytes - done, kStreamChunk});
    std::memcpy(data + done, ring + at, n);
    done += n;
    read += done == size_bytes ? round_up(n, kCacheLine) : n;
    box.read.store(read, std::memory_order_seq_cst);
    ring_doorbell(member(peer));
  }
}

}  // namespace trireme::detail
