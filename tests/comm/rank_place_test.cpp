#include "comm/rank_place.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

std::vector<Cpu> cpus(int first, int last) {
  std::vector<Cpu> out;
  for (int i = first; i <= last; ++i) out.push_back({.id = i, .core = i});
  return out;
}

TEST(RankPlace, RanksOfAHostAreFoundByItsName) {
  const std::vector<RankPlace> places = {make_place("a", cpus(0, 3)), make_place("b", cpus(0, 3)),
                                         make_place("a", cpus(0, 3))};
  EXPECT_EQ(ranks_on_host(places, 0), (std::vector<int>{0, 2}));
  EXPECT_EQ(ranks_on_host(places, 2), (std::vector<int>{0, 2}));
  EXPECT_EQ(ranks_on_host(places, 1), std::vector<int>{1});
  EXPECT_EQ(cpu_share_of(places, 2).index, 1);
  EXPECT_EQ(cpu_share_of(places, 2).count, 2);
  EXPECT_EQ(cpu_share_of(places, 1).count, 1);
}

TEST(RankPlace, RanksWithProcessorsOfTheirOwnDoNotShareThem) {
  const std::vector<RankPlace> places = {make_place("a", cpus(0, 1)), make_place("a", cpus(2, 3)),
                                         make_place("a", cpus(2, 3))};
  EXPECT_EQ(cpu_share_of(places, 0).count, 1);
  EXPECT_EQ(cpu_share_of(places, 2).index, 1);
  EXPECT_EQ(cpu_share_of(places, 2).count, 2);
}

TEST(RankPlace, ALongNameIsCutAndThisHostHasOne) {
  const RankPlace place = make_place(std::string(1000, 'x'), cpus(0, 0));
  EXPECT_EQ(place.host.back(), '\0');
  EXPECT_GT(this_host().size(), 2U);
}

}  // namespace
}  // namespace trireme
