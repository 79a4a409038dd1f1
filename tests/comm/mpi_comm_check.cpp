// The MPI communicator against the same checks as the others; run by mpi_comm_check.sh.

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "comm/mpi_world.h"
#include "comm/routed_communicator.h"
#include "tests/comm/collective_checks.h"

namespace trireme::test {
namespace {

constexpr size_t kMaxMessageBytes = size_t{300} << 10;
constexpr std::chrono::milliseconds kFinalizeDeadline{30'000};

// The ranks of the machine play several hosts: all of them one, each rank its own, or pairs.
std::string host_of_rank(const std::string& hosts) {
  if (hosts == "one") return this_host();
  const char* text = std::getenv("OMPI_COMM_WORLD_RANK");
  TRIREME_CHECK(text != nullptr && (hosts == "apart" || hosts == "pairs"));
  const int rank = std::atoi(text);
  return "host " + std::to_string(hosts == "pairs" ? rank / 2 : rank);
}

// Shared memory is in use where there are ranks to share it with.
void check_route(const MpiWorld& world, const RankComms& comms, const std::string& hosts) {
  if (!world.region_problem().empty()) throw CheckFailed(world.region_problem());
  const int partner = world.rank() ^ 1;
  const bool near = hosts == "one" || (hosts == "pairs" && partner < world.size());
  const bool routed = dynamic_cast<detail::RoutedCommunicator*>(comms.tp.get()) != nullptr;
  if (routed != (near && world.size() > 1)) throw CheckFailed("wrong route");
}

void check_layout(MpiWorld& world, const std::string& hosts, int tp, int pp,
                  int64_t sliced_from_bytes) {
  const WorldShape shape{
      .tp = tp, .pp = pp, .max_message_bytes = kMaxMessageBytes, .piece_bytes = 128 << 10};
  const RankComms comms = world.make_comms(shape, {.sliced_from_bytes = sliced_from_bytes});
  check_route(world, comms, hosts);
  if (comms.tp->rank() != shape.tp_rank(world.rank())) throw CheckFailed("wrong tp_rank");
  if (comms.pp->rank() != shape.pp_rank(world.rank())) throw CheckFailed("wrong pp_rank");
  check_communicator(*comms.tp, kMaxMessageBytes);
  check_communicator(*comms.pp, kMaxMessageBytes);
}

void check_layouts(MpiWorld& world, const std::string& hosts) {
  const int n = world.size();
  if (world.processor_name().empty()) throw CheckFailed("no processor name");
  for (int64_t sliced_from_bytes : {int64_t{0}, int64_t{64} << 10, int64_t{1} << 40}) {
    check_layout(world, hosts, n, 1, sliced_from_bytes);
  }
  check_layout(world, hosts, 1, n, 0);
  if (n == 4) check_layout(world, hosts, 2, 2, 0);
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

void wait_for_file(const std::filesystem::path& path) {
  const auto end = std::chrono::steady_clock::now() + kFinalizeDeadline;
  while (!std::filesystem::exists(path)) {
    if (std::chrono::steady_clock::now() > end) {
      throw CheckFailed(path.filename().string() + " did not come");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

// Rank 1 computes: it makes no call, and yet two large messages reach it, without which rank 0
// could not send a third.
void check_progress(MpiWorld& world, const std::filesystem::path& folder) {
  constexpr size_t kLarge = size_t{16} << 20;
  const WorldShape shape{.pp = world.size(), .max_message_bytes = kLarge};
  const RankComms comms = world.make_comms(shape, {.deadline = kFinalizeDeadline});
  std::vector<int32_t> data(kLarge / sizeof(int32_t));
  const Tensor large = make_tensor(data.data(), DType::kI32, {std::ssize(data)});
  const Tensor small = make_tensor(data.data(), DType::kI32, {1});
  const int peer = 1 - world.rank();
  if (world.rank() == 0) {
    comms.pp->send({}, small, peer);
    for (int32_t i = 0; i < 3; ++i) {
      std::fill(data.begin(), data.end(), i);
      comms.pp->send({}, large, peer);
    }
    std::ofstream(folder / "sent").flush();
  } else {
    comms.pp->recv({}, small, peer);
    wait_for_file(folder / "sent");
    for (int32_t i = 0; i < 3; ++i) {
      comms.pp->recv({}, large, peer);
      if (data.front() != i || data.back() != i) throw CheckFailed("wrong message");
    }
  }
  if (!world.finalize(kFinalizeDeadline)) throw CheckFailed("finalize failed");
}

// mpirun kills all ranks once one has left without MPI_Finalize, so the ranks meet in a folder
// before the first one leaves.
void meet_in(const std::filesystem::path& folder, const MpiWorld& world) {
  std::ofstream(folder / std::to_string(world.rank())).flush();
  for (int rank = 0; rank < world.size(); ++rank) wait_for_file(folder / std::to_string(rank));
}

// usage: mpi_comm_check FOLDER one|apart|pairs layouts|missing-peer|abort|progress
int run(int argc, char** argv) {
  TRIREME_CHECK(argc == 4);
  const std::string hosts = argv[2];
  const std::string what = argv[3];
  MpiWorld world(host_of_rank(hosts));
  try {
    if (what == "layouts") check_layouts(world, hosts);
    if (what == "missing-peer" || what == "abort") check_fault(world, what == "abort");
    if (what == "progress") check_progress(world, argv[1]);
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
