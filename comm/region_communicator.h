#pragma once

#include <memory>

#include "comm/comm_options.h"
#include "comm/communicator.h"
#include "comm/reduce_ranges.h"
#include "comm/region_waiter.h"

namespace trireme::detail {

// Which member of which group of the region a communicator is.
struct RegionSeat {
  int group = 0;
  int rank = 0;
  const char* kind = "";  // "tp" or "pp"
};

// Ranks in one shared memory region. Collectives are exchange steps: write the own slot, publish,
// wait until all have published, read the others' slots. Slots are double: publishing step s + 1
// says that step s was read, so the slot of step s may be written again in step s + 2.
class RegionCommunicator final : public Communicator {
 public:
  RegionCommunicator(std::shared_ptr<RegionMapping> mapping, RegionSeat seat,
                     const CommOptions& options);

  int rank() const override { return seat_.rank; }
  int size() const override { return size_; }
  void all_reduce_tree(Stream, const TreePlan& plan, Tensor partials, Tensor out) override;
  void all_gather(Stream, Tensor out, Tensor in) override;
  void send(Stream, Tensor tensor, int peer) override;
  void recv(Stream, Tensor tensor, int peer) override;
  void abort() noexcept override { mapping_->abort(); }

 private:
  void reduce_everywhere(const ReducePiece& piece);
  void reduce_sliced(const ReducePiece& piece);
  void copy_partials(const ReducePiece& piece, ElementRange range, float* slot) const;
  PartialPointers find_partials(const ReducePiece& piece, uint32_t step) const;

  std::byte* slot(int member, uint32_t step) const {
    return mapping_->slot(seat_.group, member, step);
  }
  MemberControl& member(int index) const { return mapping_->member(seat_.group, index); }
  void publish_step();
  void wait_for_step(const char* op);
  void stream_out(int peer, const std::byte* data, size_t size_bytes);
  void stream_in(int peer, std::byte* data, size_t size_bytes);

  std::shared_ptr<RegionMapping> mapping_;
  RegionSeat seat_;
  int size_;
  int64_t sliced_from_bytes_;
  RegionWaiter waiter_;
  uint32_t step_;  // the last step this rank began
};

}  // namespace trireme::detail
