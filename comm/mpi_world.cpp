#include "comm/mpi_world.h"

#include <cstring>
#include <vector>

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

std::string MpiWorld::share_text(const std::string& text, const CommOptions& options) {
  TRIREME_CHECK(text.size() < kMaxSharedText);
  WorldShape shape;
  shape.tp = size();
  detail::MpiCommunicator world(engine_, engine_->split(0, rank()), detail::kTpOpNames, shape,
                                options);
  constexpr int64_t kWords = kMaxSharedText / sizeof(int32_t);
  std::vector<int32_t> own(kWords, 0);
  std::vector<int32_t> all(static_cast<size_t>(kWords * size()), 0);
  std::memcpy(own.data(), text.data(), text.size());
  world.all_gather({}, make_tensor(all.data(), DType::kI32, {size(), kWords}),
                   make_tensor(own.data(), DType::kI32, {kWords}));
  return reinterpret_cast<const char*>(all.data());  // rank 0's, ended by a zero
}

bool MpiWorld::finalize(std::chrono::milliseconds deadline) { return engine_->finalize(deadline); }

}  // namespace trireme
