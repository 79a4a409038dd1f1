#include "comm/mpi_world.h"

#include "comm/mpi_communicator.h"
#include "comm/mpi_engine.h"

namespace trireme {

MpiWorld::MpiWorld() : engine_(std::make_shared<detail::MpiEngine>()) {}
MpiWorld::~MpiWorld() = default;

int MpiWorld::rank() const { return engine_->rank(); }
int MpiWorld::size() const { return engine_->size(); }
const std::string& MpiWorld::processor_name() const { return engine_->processor_name(); }

RankComms MpiWorld::make_comms(const WorldShape& shape, const CommOptions& options) {
  check_shape(shape);
  TRIREME_CHECK_MSG(shape.size() == size(), "the layout needs another number of MPI ranks");
  const int tp_rank = shape.tp_rank(rank());
  const int pp_rank = shape.pp_rank(rank());
  RankComms comms;
  comms.tp = std::make_unique<detail::MpiCommunicator>(engine_, engine_->split(pp_rank, tp_rank),
                                                       detail::kTpOpNames, shape, options);
  comms.pp = std::make_unique<detail::MpiCommunicator>(engine_, engine_->split(tp_rank, pp_rank),
                                                       detail::kPpOpNames, shape, options);
  return comms;
}

bool MpiWorld::finalize(std::chrono::milliseconds deadline) { return engine_->finalize(deadline); }

}  // namespace trireme
