#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/comm_options.h"
#include "comm/communicator.h"
#include "comm/rank_place.h"
#include "comm/shared_region.h"

namespace trireme {

namespace detail {
class MpiEngine;
class MpiCommunicator;
}  // namespace detail

// This process as a rank of an MPI job. At most one per process. MPI_Init has no deadline of its
// own: whoever launches the job has to give it one.
class MpiWorld {
 public:
  // Loads libmpi and initialises it; collective. Ranks that give the same `host` are taken to be
  // able to share memory. Throws EnvironmentError and CommError.
  explicit MpiWorld(const std::string& host = this_host());

  // Without finalize() the process leaves the job as it is: nothing is sent or waited for, and
  // mpirun ends the other ranks when this process ends. That is the way out after CommError.
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const;
  int size() const;
  const std::string& processor_name() const;
  // This rank among those of its host that may use the same processors.
  CpuShare cpu_share() const { return cpu_share_of(places_, rank()); }

  // The communicators of this rank; collective over the world, once after start. shape.size() must
  // be size(). They stay usable until finalize() or the end of this object. Between ranks of one
  // host they go through shared memory.
  RankComms make_comms(const WorldShape& shape, const CommOptions& options);
  // Why the ranks of this host do without shared memory after all, told to one of them; else empty.
  const std::string& region_problem() const { return region_problem_; }

  // Rank 0's text, shorter than kMaxSharedText bytes, on every rank; collective. Throws CommError.
  static constexpr size_t kMaxSharedText = 4096;
  std::string share_text(const std::string& text);

  // The normal end: waits for all ranks to come here, at most `deadline`, then finalises MPI. False
  // if that did not happen or the group was aborted; the process may then only end.
  bool finalize(std::chrono::milliseconds deadline);

 private:
  template <typename T>
  std::vector<T> gather(const T& own);
  std::optional<SharedRegion> share_region(const WorldShape& shape);

  std::shared_ptr<detail::MpiEngine> engine_;
  std::unique_ptr<detail::MpiCommunicator> all_;  // of all ranks, for small exchanges
  std::vector<RankPlace> places_;                 // [size]
  std::string region_problem_;
};

}  // namespace trireme
