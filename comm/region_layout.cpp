#include "comm/region_layout.h"

#include "kernels/int_math.h"

namespace trireme {
namespace {

constexpr size_t kPage = 4096;

class Allocator {
 public:
  size_t take(size_t size_bytes, size_t alignment) {
    const size_t offset = round_up(next_, alignment);
    next_ = offset + size_bytes;
    return offset;
  }
  size_t used() const { return next_; }

 private:
  size_t next_ = 0;
};

size_t pair_index(const GroupLayout& group, int from, int to) {
  TRIREME_CHECK(from >= 0 && from < group.n_members);
  TRIREME_CHECK(to >= 0 && to < group.n_members && from != to);
  return static_cast<size_t>(from) * static_cast<size_t>(group.n_members) + static_cast<size_t>(to);
}

}  // namespace

RegionLayout make_region_layout(const WorldShape& shape) {
  check_shape(shape);
  RegionLayout layout;
  layout.slot_bytes = round_up(shape.piece_bytes, kPage);
  // Two messages of the largest size, each with its one-line header, rounded up to whole lines.
  layout.ring_bytes =
      round_up(2 * (round_up(shape.max_message_bytes, kCacheLine) + kCacheLine), kPage);

  Allocator allocator;
  allocator.take(sizeof(RegionHeader), kPage);
  for (int i = 0; i < shape.pp + shape.tp; ++i) {
    GroupLayout group;
    group.n_members = i < shape.pp ? shape.tp : shape.pp;
    const auto n = static_cast<size_t>(group.n_members);
    group.members = allocator.take(n * sizeof(MemberControl), kCacheLine);
    if (n > 1) group.mailboxes = allocator.take(n * n * sizeof(MailboxControl), kCacheLine);
    layout.groups.push_back(group);
  }
  // Payload after all control fields: these stay together on a few pages.
  for (GroupLayout& group : layout.groups) {
    const auto n = static_cast<size_t>(group.n_members);
    if (n == 1) continue;
    group.slots = allocator.take(n * 2 * layout.slot_bytes, kPage);
    group.rings = allocator.take(n * n * layout.ring_bytes, kPage);
  }
  layout.size_bytes = round_up(allocator.used(), kPage);
  return layout;
}

size_t RegionLayout::slot(int group, int member, uint32_t step) const {
  const GroupLayout& g = groups[static_cast<size_t>(group)];
  TRIREME_CHECK(g.slots != 0 && member >= 0 && member < g.n_members);
  return g.slots + (static_cast<size_t>(member) * 2 + (step & 1)) * slot_bytes;
}

size_t RegionLayout::mailbox(int group, int from, int to) const {
  const GroupLayout& g = groups[static_cast<size_t>(group)];
  return g.mailboxes + pair_index(g, from, to) * sizeof(MailboxControl);
}

size_t RegionLayout::ring(int group, int from, int to) const {
  const GroupLayout& g = groups[static_cast<size_t>(group)];
  return g.rings + pair_index(g, from, to) * ring_bytes;
}

}  // namespace trireme
