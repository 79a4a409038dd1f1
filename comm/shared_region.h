#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "comm/comm_options.h"
#include "comm/communicator.h"
#include "comm/memory_address.h"

namespace trireme {

namespace detail {
class RegionMapping;
}

// Memory that the ranks of one group on one machine share: threads use one object, processes
// inherit fd() and attach. It is an anonymous memfd, so nothing is left behind however ranks end.
class SharedRegion {
 public:
  // Throws EnvironmentError when the memory cannot be had. fd() is close-on-exec.
  static SharedRegion create(const WorldShape& shape);

  // Maps the region behind an inherited descriptor, which stays the caller's. Throws
  // EnvironmentError when it is not a region of this shape.
  static SharedRegion attach(int fd, const WorldShape& shape);

  // Maps the region of another process of this user, which must keep it until this returns. Throws
  // EnvironmentError when it is out of reach (another container, say) or not that region.
  static SharedRegion open(const MemoryAddress& address, const WorldShape& shape);
  MemoryAddress address() const;

  int fd() const;
  size_t size_bytes() const;
  const WorldShape& shape() const;

  // Makes every communicator of every rank on this region throw. Callable from any thread.
  void abort() noexcept;

 private:
  friend RankComms make_region_comms(const SharedRegion&, int, const CommOptions&);
  explicit SharedRegion(std::shared_ptr<detail::RegionMapping> mapping);
  static SharedRegion attach(int fd, bool owns_fd, const WorldShape& shape);

  std::shared_ptr<detail::RegionMapping> mapping_;
};

// The communicators of one rank: its tensor-parallel group and its pipeline chain. They keep the
// mapping alive. Aborting either, or outlasting a deadline in either, aborts the whole region.
RankComms make_region_comms(const SharedRegion& region, int world_rank, const CommOptions& options);

}  // namespace trireme
