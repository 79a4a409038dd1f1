#pragma once

#include <cstddef>

#include "comm/region_layout.h"

namespace trireme::detail {

// The mapped memory of a SharedRegion, and typed access to its parts.
class RegionMapping {
 public:
  // Maps size_bytes of fd; owns the mapping, and fd too when owns_fd.
  RegionMapping(int fd, bool owns_fd, const WorldShape& shape);
  ~RegionMapping();
  RegionMapping(const RegionMapping&) = delete;
  RegionMapping& operator=(const RegionMapping&) = delete;

  int fd() const { return fd_; }
  const WorldShape& shape() const { return shape_; }
  const RegionLayout& layout() const { return layout_; }

  // Starts the lives of all control fields in the fresh memory; the creator calls it once.
  void initialise();

  RegionHeader& header() const { return *at<RegionHeader>(0); }
  MemberControl& member(int group, int index) const {
    const GroupLayout& g = layout_.groups[static_cast<size_t>(group)];
    return at<MemberControl>(g.members)[index];
  }
  MailboxControl& mailbox(int group, int from, int to) const {
    return *at<MailboxControl>(layout_.mailbox(group, from, to));
  }
  std::byte* slot(int group, int index, uint32_t step) const {
    return base_ + layout_.slot(group, index, step);
  }
  std::byte* ring(int group, int from, int to) const {
    return base_ + layout_.ring(group, from, to);
  }

  bool aborted() const { return header().aborted.load(std::memory_order_seq_cst) != 0; }
  void abort() noexcept;

 private:
  template <typename T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }

  int fd_;
  bool owns_fd_;
  WorldShape shape_;
  RegionLayout layout_;
  std::byte* base_ = nullptr;
};

// Wakes a member that sleeps in RegionWaiter, if it does. Call after the change it waits for.
void ring_doorbell(MemberControl& member) noexcept;

}  // namespace trireme::detail
