// The MPI communicator against the same checks as the others; run by mpi_comm_check.sh.

#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "comm/mpi_world.h"
#include "tests/comm/collective_checks.h"

namespace trireme::test {
namespace {

constexpr size_t kMaxMessageBytes = size_t{300} << 10;
constexpr std::chrono::milliseconds kFinalizeDeadline{30'000};

void check_layout(MpiWorld& world, int tp, int pp, int64_t sliced_from_bytes) {
  const WorldShape shape{
      .tp = tp, .pp = pp, .max_message_bytes = kMaxMessageBytes, .piece_bytes = 128 << 10};
  const RankComms comms = world.make_comms(shape, {.sliced_from_bytes = sliced_from_bytes});
  if (comms.tp->rank() != shape.tp_rank(world.rank())) throw CheckFailed("wrong tp_rank");
  if (comms.pp->rank() != shape.pp_rank(world.rank())) throw CheckFailed("wrong pp_rank");
  check_communicator(*comms.tp, kMaxMessageBytes);
  check_communicator(*comms.pp, kMaxMessageBytes);
}

void check_layouts(MpiWorld& world) {
  const int n = world.size();
  if (world.processor_name().empty()) throw CheckFailed("no processor name");
  for (int64_t sliced_from_bytes : {int64_t{0}, int64_t{64} << 10, int64_t{1} << 40}) {
    check_layout(world, n, 1, sliced_from_bytes);
  }
  check_layout(world, 1, n, 0);
  if (n == 4) check_layout(world, 2, 2, 0);
  if (!world.finalize(kFinalizeDeadline)) throw CheckFailed("finalize failed");
}

// The last rank stays away, or aborts, while the others reduce: all have to learn of it.
void check_fault(MpiWorld& world, bool abort) {
  const WorldShape shape{.tp = world.size(), .max_message_bytes = kMaxMessageBytes};
  const std::chrono::milliseconds short_deadline(300);
  const std::chrono::milliseconds long_deadline(3'600'000);
  const bool last = world.rank() == world.size() - 1;
  // The one that stays away must not be the first to run out of time.
  const RankComms comms =
      world.make_comms(shape, {.deadline = abort || last ? long_deadline : short_deadline});
  float value = 0;
  const Tensor tensor = make_tensor(&value, DType::kF32, {1});
  try {
    check_all_reduce_tree(*comms.tp, {16, 1000, 1});
    if (last && abort) comms.tp->abort();
    if (last) {
      comms.tp->recv({}, tensor, 0);
    } else {
      check_all_reduce_tree(*comms.tp, {16, 1000, 2});
    }
  } catch (const CommError& error) {
    std::printf("rank %d: %s\n", world.rank(), error.what());
    if (world.finalize(kFinalizeDeadline)) throw CheckFailed("finalized after a fault");
    return;
  }
  throw CheckFailed("the fault went unnoticed");
}

// mpirun kills all ranks once one has left without MPI_Finalize, so the ranks meet in a folder
// before the first one leaves.
void meet_in(const std::filesystem::path& folder, const MpiWorld& world) {
  std::ofstream(folder / std::to_string(world.rank())).flush();
  const auto end = std::chrono::steady_clock::now() + kFinalizeDeadline;
  for (int rank = 0; rank < world.size(); ++rank) {
    while (!std::filesystem::exists(folder / std::to_string(rank))) {
      if (std::chrono::steady_clock::now() > end) throw CheckFailed("a rank did not come back");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
}

// usage: mpi_comm_check FOLDER [missing-peer|abort]
int run(int argc, char** argv) {
  TRIREME_CHECK(argc >= 2);
  MpiWorld world;
  try {
    if (argc == 2) check_layouts(world);
    if (argc == 3) check_fault(world, std::strcmp(argv[2], "abort") == 0);
  } catch (const std::exception& error) {
    std::printf("rank %d: failed: %s\n", world.rank(), error.what());
    return 1;
  }
  // One write each, so that the lines of several ranks do not mix.
  std::printf("mpi_comm_check: passed on rank %d of %d\n", world.rank(), world.size());
  std::fflush(stdout);
  meet_in(argv[1], world);
  return 0;
}

}  // namespace
}  // namespace trireme::test

int main(int argc, char** argv) { return trireme::test::run(argc, argv); }
