#include <gtest/gtest.h>

#include <filesystem>
#include <iterator>
#include <numeric>

#include "comm/reduce_ranges.h"
#include "comm/shared_region.h"
#include "kernels/result.h"
#include "tests/comm/collective_checks.h"
#include "tests/comm/rank_groups.h"

namespace trireme::test {
namespace {

constexpr size_t kMaxMessageBytes = size_t{600} << 10;
constexpr int64_t kAlways = 0;
constexpr int64_t kNever = int64_t{1} << 40;

enum class RankKind { kThread, kProcess };

struct RegionCase {
  RankKind kind;
  int tp;
  int pp;
  int64_t sliced_from_bytes;
};

std::string case_name(const testing::TestParamInfo<RegionCase>& info) {
  const RegionCase& c = info.param;
  return std::string(c.kind == RankKind::kThread ? "threads" : "processes") + "_tp" +
         std::to_string(c.tp) + "_pp" + std::to_string(c.pp) + "_" +
         (c.sliced_from_bytes == kAlways  ? "sliced"
          : c.sliced_from_bytes == kNever ? "everywhere"
                                          : "mixed");
}

class RegionCommunicatorTest : public testing::TestWithParam<RegionCase> {};

TEST_P(RegionCommunicatorTest, MatchesTheScalarReference) {
  const RegionCase& c = GetParam();
  // A small piece, so that messages of a few hundred KiB already go in several.
  const SharedRegion region = SharedRegion::create(
      {.tp = c.tp, .pp = c.pp, .max_message_bytes = kMaxMessageBytes, .piece_bytes = 64 << 10});
  const auto rank_main = [&](int world_rank, RankComms& comms) {
    if (comms.tp->size() != c.tp || comms.pp->size() != c.pp) throw CheckFailed("wrong size");
    if (comms.pp->rank() * c.tp + comms.tp->rank() != world_rank) throw CheckFailed("wrong rank");
    check_communicator(*comms.tp, kMaxMessageBytes);
    if (c.pp > 1) check_communicator(*comms.pp, kMaxMessageBytes);
  };
  const CommOptions options{.sliced_from_bytes = c.sliced_from_bytes};
  const auto messages = c.kind == RankKind::kThread ? run_threads(region, options, rank_main)
                                                    : run_processes(region, options, rank_main);
  for (const std::string& message : messages) EXPECT_EQ(message, "");
}

std::vector<RegionCase> region_cases() {
  std::vector<RegionCase> out;
  for (int tp = 1; tp <= 5; ++tp) {
    for (int64_t from : {kAlways, int64_t{64} << 10, kNever}) {
      out.push_back({RankKind::kThread, tp, 1, from});
    }
    out.push_back({RankKind::kProcess, tp, 1, int64_t{64} << 10});
  }
  for (RankKind kind : {RankKind::kThread, RankKind::kProcess}) {
    out.push_back({kind, 1, 3, kAlways});
    out.push_back({kind, 2, 2, kAlways});
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Layouts, RegionCommunicatorTest, testing::ValuesIn(region_cases()),
                         case_name);

TEST(RegionCommunicator, ManySmallStepsInARowStayInOrder) {
  const SharedRegion region = SharedRegion::create({.tp = 3});
  const auto messages = run_threads(region, {}, [](int, RankComms& comms) {
    for (uint32_t i = 0; i < 2000; ++i) check_all_reduce_tree(*comms.tp, {7, 5, i});
  });
  for (const std::string& message : messages) EXPECT_EQ(message, "");
}

TEST(RegionCommunicator, SendsAMessageLargerThanItsRing) {
  const SharedRegion region = SharedRegion::create({.pp = 2, .max_message_bytes = 1000});
  const auto messages = run_threads(region, {}, [](int rank, RankComms& comms) {
    std::vector<int32_t> data(100'000, -1);
    const Tensor tensor = make_tensor(data.data(), DType::kI32, {100'000});
    if (rank == 0) {
      std::iota(data.begin(), data.end(), 5);
      return comms.pp->send({}, tensor, 1);
    }
    comms.pp->recv({}, tensor, 0);
    for (int32_t i = 0; i < 100'000; ++i) {
      if (data[static_cast<size_t>(i)] != i + 5) throw CheckFailed("wrong element");
    }
  });
  for (const std::string& message : messages) EXPECT_EQ(message, "");
}

TEST(SharedRegion, RefusesADescriptorOfAnotherLayout) {
  const SharedRegion region = SharedRegion::create({.tp = 2});
  EXPECT_THROW(SharedRegion::attach(region.fd(), {.tp = 3}), EnvironmentError);
  EXPECT_THROW(SharedRegion::attach(region.fd(), {.pp = 2}), EnvironmentError);
  EXPECT_THROW(SharedRegion::attach(-1, {.tp = 2}), EnvironmentError);
  EXPECT_NO_THROW(SharedRegion::attach(region.fd(), {.tp = 2}));
}

TEST(SharedRegion, OpensThroughTheProcessThatMadeIt) {
  const SharedRegion region = SharedRegion::create({.tp = 2});
  const MemoryAddress address = region.address();
  const auto n_descriptors = [] {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
  };
  const auto before = n_descriptors();
  EXPECT_EQ(SharedRegion::open(address, {.tp = 2}).address().inode, address.inode);
  EXPECT_THROW(SharedRegion::open(address, {.tp = 3}), EnvironmentError);
  MemoryAddress other = address;
  other.inode += 1;
  EXPECT_THROW(SharedRegion::open(other, {.tp = 2}), EnvironmentError);
  EXPECT_THROW(SharedRegion::open({}, {.tp = 2}), EnvironmentError);
  EXPECT_EQ(n_descriptors(), before);
}

TEST(ReduceRanges, SlicesTileThePieceInOrder) {
  for (int n_ranks = 1; n_ranks <= kMaxLeaves; ++n_ranks) {
    for (int64_t n : {0, 1, 15, 16, 17, 100, 255, 256, 1000, 4096, 100'003}) {
      int64_t next = 0;
      for (int rank = 0; rank < n_ranks; ++rank) {
        const ElementRange range = slice_of(n, rank, n_ranks);
        EXPECT_EQ(range.begin, next);
        EXPECT_GE(range.size(), 0);
        next = range.end;
      }
      EXPECT_EQ(next, n);
    }
  }
}

TEST(ReduceRanges, PiecesAreWholeLinesThatFit) {
  for (int n_rows = 1; n_rows <= kMaxLeaves; ++n_rows) {
    const int64_t n = piece_elements(64 << 10, n_rows);
    EXPECT_EQ(n % kRangeStep, 0);
    EXPECT_LE(n * n_rows * static_cast<int64_t>(sizeof(float)), 64 << 10);
    EXPECT_GT((n + kRangeStep) * n_rows * static_cast<int64_t>(sizeof(float)), 64 << 10);
  }
}

}  // namespace
}  // namespace trireme::test
