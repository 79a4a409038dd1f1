#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "comm/comm_options.h"
#include "comm/communicator.h"

namespace trireme {

namespace detail {
class MpiEngine;
}

// This process as a rank of an MPI job. At most one per process. MPI_Init has no deadline of its
// own: whoever launches the job has to give it one.
class MpiWorld {
 public:
  // Loads libmpi and initialises it. Throws EnvironmentError.
  MpiWorld();

  // Without finalize() the process leaves the job as it is: nothing is sent or waited for, and
  // mpirun ends the other ranks when this process ends. That is the way out after CommError.
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const;
  int size() const;
  const std::string& processor_name() const;

  // The communicators of this rank; collective over the world, once after start. shape.size() must
  // be size(). They stay usable until finalize() or the end of this object.
  RankComms make_comms(const WorldShape& shape, const CommOptions& options);

  // Rank 0's text, at most kMaxSharedText bytes, on every rank; collective. Throws CommError.
  static constexpr size_t kMaxSharedText = 4096;
  std::string share_text(const std::string& text, const CommOptions& options);

  // The normal end: waits for all ranks to come here, at most `deadline`, then finalises MPI. False
  // if that did not happen or the group was aborted; the process may then only end.
  bool finalize(std::chrono::milliseconds deadline);

 private:
  std::shared_ptr<detail::MpiEngine> engine_;
};

}  // namespace trireme
