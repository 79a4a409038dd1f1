#include "comm/shared_region.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <new>

#include "comm/region_communicator.h"
#include "comm/region_mapping.h"
#include "kernels/result.h"

namespace trireme {
namespace detail {
namespace {

constexpr uint64_t kRegionMagic = 0x7472'6972'656d'6531;  // "trireme1"

[[noreturn]] void throw_environment(const char* what, size_t size_bytes) {
  throw EnvironmentError(fmt::format(
      "shared memory for the ranks: {} of {} MiB failed ({}); free memory, or lower the "
      "batch size",
      what, size_bytes >> 20, std::strerror(errno)));
}

}  // namespace

RegionMapping::RegionMapping(int fd, bool owns_fd, const WorldShape& shape)
    : fd_(fd), owns_fd_(owns_fd), shape_(shape), layout_(make_region_layout(shape)) {
  void* base =
      mmap(nullptr, layout_.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED) {
    const int error = errno;
    if (owns_fd_) close(fd_);
    errno = error;
    throw_environment("mapping", layout_.size_bytes);
  }
  base_ = static_cast<std::byte*>(base);
}

RegionMapping::~RegionMapping() {
  munmap(base_, layout_.size_bytes);
  if (owns_fd_) close(fd_);
}

void RegionMapping::initialise() {
  for (const GroupLayout& group : layout_.groups) {
    const int n = group.n_members;
    for (int i = 0; i < n; ++i) new (at<MemberControl>(group.members) + i) MemberControl;
    for (int i = 0; i < n * n && n > 1; ++i) {
      new (at<MailboxControl>(group.mailboxes) + i) MailboxControl;
    }
  }
  RegionHeader* header = new (base_) RegionHeader;
  header->shape = shape_;
  header->magic = kRegionMagic;
}

void RegionMapping::abort() noexcept {
  header().aborted.store(1, std::memory_order_seq_cst);
  for (size_t g = 0; g < layout_.groups.size(); ++g) {
    for (int i = 0; i < layout_.groups[g].n_members; ++i) {
      ring_doorbell(member(static_cast<int>(g), i));
    }
  }
}

void ring_doorbell(MemberControl& member) noexcept {
  // Pairs with RegionWaiter::sleep: either it sees the change, or this sees it sleeping.
  if (member.sleeping.load(std::memory_order_seq_cst) == 0) return;
  member.doorbell.fetch_add(1, std::memory_order_seq_cst);
  syscall(SYS_futex, &member.doorbell, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace detail

SharedRegion::SharedRegion(std::shared_ptr<detail::RegionMapping> mapping)
    : mapping_(std::move(mapping)) {}

SharedRegion SharedRegion::create(const WorldShape& shape) {
  const size_t size_bytes = make_region_layout(shape).size_bytes;
  const int fd = memfd_create("trireme-region", MFD_CLOEXEC);
  if (fd < 0) detail::throw_environment("creating", size_bytes);
  if (ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) {
    const int error = errno;
    close(fd);
    errno = error;
    detail::throw_environment("sizing", size_bytes);
  }
  auto mapping = std::make_shared<detail::RegionMapping>(fd, true, shape);
  mapping->initialise();
  return SharedRegion(std::move(mapping));
}

SharedRegion SharedRegion::attach(int fd, const WorldShape& shape) {
  return attach(fd, false, shape);
}

SharedRegion SharedRegion::open(const MemoryAddress& address, const WorldShape& shape) {
  return attach(open_memory(address).release(), true, shape);
}

MemoryAddress SharedRegion::address() const { return memory_address(fd()); }

SharedRegion SharedRegion::attach(int fd, bool owns_fd, const WorldShape& shape) {
  struct stat status {};
  const size_t size_bytes = make_region_layout(shape).size_bytes;
  if (fstat(fd, &status) != 0 || static_cast<size_t>(status.st_size) != size_bytes) {
    if (owns_fd) close(fd);
    throw EnvironmentError(fmt::format(
        "descriptor {} is not the shared memory of this group (TP {} x PP {}); start ranks through "
        "trireme, with one version on both sides",
        fd, shape.tp, shape.pp));
  }
  auto mapping = std::make_shared<detail::RegionMapping>(fd, owns_fd, shape);
  const RegionHeader& header = mapping->header();
  if (header.magic != detail::kRegionMagic || header.shape != shape) {
    throw EnvironmentError(fmt::format(
        "the shared memory behind descriptor {} was made for another layout than TP {} x PP {}; "
        "start ranks through trireme, with one version on both sides",
        fd, shape.tp, shape.pp));
  }
  return SharedRegion(std::move(mapping));
}

int SharedRegion::fd() const { return mapping_->fd(); }
size_t SharedRegion::size_bytes() const { return mapping_->layout().size_bytes; }
const WorldShape& SharedRegion::shape() const { return mapping_->shape(); }
void SharedRegion::abort() noexcept { mapping_->abort(); }

RankComms make_region_comms(const SharedRegion& region, int world_rank,
                            const CommOptions& options) {
  const WorldShape& shape = region.shape();
  TRIREME_CHECK(world_rank >= 0 && world_rank < shape.size());
  const int tp_rank = shape.tp_rank(world_rank);
  const int pp_rank = shape.pp_rank(world_rank);
  RankComms comms;
  comms.tp = std::make_unique<detail::RegionCommunicator>(
      region.mapping_, detail::RegionSeat{.group = pp_rank, .rank = tp_rank, .kind = "tp"},
      options);
  comms.pp = std::make_unique<detail::RegionCommunicator>(
      region.mapping_,
      detail::RegionSeat{.group = shape.pp + tp_rank, .rank = pp_rank, .kind = "pp"}, options);
  return comms;
}

}  // namespace trireme
