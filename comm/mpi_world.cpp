#include "comm/mpi_world.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "comm/mpi_communicator.h"
#include "comm/mpi_engine.h"
#include "comm/routed_communicator.h"
#include "kernels/result.h"

namespace trireme {

MpiWorld::MpiWorld(const std::string& host) : engine_(std::make_shared<detail::MpiEngine>()) {
  const WorldShape shape{.tp = size(), .max_message_bytes = 1};
  all_ = std::make_unique<detail::MpiCommunicator>(engine_, engine_->split(0, rank()),
                                                   detail::kTpOpNames, shape, CommOptions{});
  places_ = gather(make_place(host, available_cpus()));
}

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
  const std::optional<SharedRegion> region = share_region(shape);
  if (!region) return comms;

  RankComms near = make_region_comms(*region, rank(), options);
  const auto is_near = [&](int peer) {
    return static_cast<char>(places_[static_cast<size_t>(peer)].host ==
                             places_[static_cast<size_t>(rank())].host);
  };
  std::vector<char> near_tp;
  std::vector<char> near_pp;
  for (int i = 0; i < shape.tp; ++i) near_tp.push_back(is_near(pp_rank * shape.tp + i));
  for (int i = 0; i < shape.pp; ++i) near_pp.push_back(is_near(i * shape.tp + tp_rank));
  comms.tp = std::make_unique<detail::RoutedCommunicator>(std::move(near.tp), std::move(comms.tp),
                                                          std::move(near_tp));
  comms.pp = std::make_unique<detail::RoutedCommunicator>(std::move(near.pp), std::move(comms.pp),
                                                          std::move(near_pp));
  return comms;
}

// The first rank of each host makes a region of the whole world, of which the host's ranks use
// their parts; the others open it. All of a host use it or none.
std::optional<SharedRegion> MpiWorld::share_region(const WorldShape& shape) {
  const std::vector<int> near = ranks_on_host(places_, rank());
  std::optional<SharedRegion> region;
  std::string problem;
  MemoryAddress address;
  const auto attempt = [&](const auto& step) {
    try {
      step();
    } catch (const EnvironmentError& error) {
      problem = error.what();
    }
  };
  if (near.size() > 1 && near.front() == rank()) {
    attempt([&] {
      region = SharedRegion::create(shape);
      address = region->address();
    });
  }
  const std::vector<MemoryAddress> addresses = gather(address);
  if (near.front() != rank()) {
    attempt(
        [&] { region = SharedRegion::open(addresses[static_cast<size_t>(near.front())], shape); });
  }
  const std::vector<int32_t> has_region = gather(static_cast<int32_t>(region.has_value()));
  const auto without = std::find_if(near.begin(), near.end(), [&](int peer) {
    return has_region[static_cast<size_t>(peer)] == 0;
  });
  if (without == near.end()) return region;
  if (*without == rank()) region_problem_ = problem;  // empty for a rank alone on its host
  return std::nullopt;
}

std::string MpiWorld::share_text(const std::string& text) {
  TRIREME_CHECK(text.size() < kMaxSharedText);
  std::array<char, kMaxSharedText> own{};
  std::copy(text.begin(), text.end(), own.begin());
  return gather(own)[0].data();  // rank 0's, ended by a zero
}

// Every rank's value.
template <typename T>
std::vector<T> MpiWorld::gather(const T& own) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(int32_t) == 0);
  constexpr auto kWords = static_cast<int64_t>(sizeof(T) / sizeof(int32_t));
  std::vector<int32_t> words(kWords);
  std::memcpy(words.data(), &own, sizeof(T));
  std::vector<T> all(static_cast<size_t>(size()));
  all_->all_gather({}, make_tensor(all.data(), DType::kI32, {size(), kWords}),
                   make_tensor(words.data(), DType::kI32, {kWords}));
  return all;
}

bool MpiWorld::finalize(std::chrono::milliseconds deadline) { return engine_->finalize(deadline); }

}  // namespace trireme
