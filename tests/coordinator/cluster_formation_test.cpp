#include "coordinator/cluster/formation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "coordinator/cluster/launchers.h"

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<Layout> smaller(Layout whole, int min_ranks, int max_tp, int max_pp) {
  return smaller_layouts(whole, min_ranks, [&](const Layout& layout) {
    return layout.tp <= max_tp && layout.pp <= max_pp;
  });
}

TEST(ClusterFormation, SmallerLayoutsKeepShardsTogether) {
  EXPECT_THAT(smaller({2, 2}, 1, 8, 8),
              ElementsAre(Layout{1, 3}, Layout{3, 1}, Layout{2, 1}, Layout{1, 2}, Layout{1, 1}));
  EXPECT_THAT(smaller({4, 1}, 2, 4, 2), ElementsAre(Layout{3, 1}, Layout{2, 1}, Layout{1, 2}));
  EXPECT_THAT(smaller({3, 3}, 8, 3, 3), IsEmpty());
  EXPECT_THAT(smaller({1, 1}, 1, 8, 8), IsEmpty());
}

// For any model, layout and least number: all that are valid, none that is not, largest first.
TEST(ClusterFormation, SmallerLayoutsAreAllThatAreValidAndLargestFirst) {
  for (int tp = 1; tp <= 5; ++tp) {
    for (int pp = 1; pp <= 5; ++pp) {
      for (int max_tp = tp; max_tp <= 6; ++max_tp) {
        for (int max_pp = pp; max_pp <= 6; ++max_pp) {
          for (int min_ranks = 1; min_ranks < tp * pp; ++min_ranks) {
            SCOPED_TRACE(testing::Message() << tp << "x" << pp << " of " << max_tp << "x" << max_pp
                                            << ", least " << min_ranks);
            const std::vector<Layout> found = smaller({tp, pp}, min_ranks, max_tp, max_pp);
            int n_valid = 0;
            for (int t = 1; t <= max_tp; ++t) {
              for (int p = 1; p <= max_pp; ++p) {
                if (t * p < min_ranks || t * p >= tp * pp) continue;
                ++n_valid;
                ASSERT_EQ(std::count(found.begin(), found.end(), Layout{t, p}), 1);
              }
            }
            ASSERT_EQ(found.size(), static_cast<size_t>(n_valid));
            ASSERT_TRUE(std::is_sorted(found.begin(), found.end(),
                                       [](auto& a, auto& b) { return a.n_ranks() > b.n_ranks(); }));
          }
        }
      }
    }
  }
}

LaunchSpec spec_on(std::vector<std::string> hosts, Layout layout, int min_ranks = 1) {
  LaunchSpec spec;
  spec.launcher = LauncherKind::kMpirun;
  spec.hosts = std::move(hosts);
  spec.job.layout = layout;
  spec.job.kv_bytes = 100;
  spec.job.max_plans_in_flight = layout.pp + 1;
  for (const Layout& each : smaller(layout, min_ranks, 4, 4)) {
    spec.smaller_layouts.push_back({.layout = each, .kv_bytes = 100 * each.tp});
  }
  return spec;
}

Layout layout_on(const LaunchSpec& spec, const std::vector<std::string>& hosts) {
  const auto formation = formation_on(spec, hosts);
  if (!formation) return {0, 0};
  EXPECT_EQ(formation->hosts, hosts);
  EXPECT_EQ(launch_spec_problem(in_formation(spec, *formation)), "");
  return formation->choice.layout;
}

TEST(ClusterFormation, FillsThePlacesThatAreLeft) {
  LaunchSpec spec = spec_on({"a", "b"}, {2, 2});
  spec.control_address = "10.0.0.9";
  EXPECT_EQ(layout_on(spec, {"a", "b"}), (Layout{2, 2}));
  EXPECT_EQ(layout_on(spec, {"b"}), (Layout{2, 1}));
  EXPECT_EQ(layout_on(spec, {}), (Layout{0, 0}));

  spec = spec_on({"a:3", "b", "c:2"}, {2, 3});
  spec.control_address = "10.0.0.9";
  EXPECT_EQ(layout_on(spec, {"a:3", "c:2"}), (Layout{2, 2}));
  EXPECT_EQ(layout_on(spec, {"b", "c:2"}), (Layout{1, 3}));
  EXPECT_EQ(layout_on(spec, {"b"}), (Layout{1, 1}));
}

TEST(ClusterFormation, ASpareHostTakesTheWholeLayout) {
  LaunchSpec spec = spec_on({"a", "b", "c"}, {2, 1});
  spec.control_address = "10.0.0.9";
  EXPECT_EQ(layout_on(spec, {"a", "c"}), (Layout{2, 1}));
  EXPECT_EQ(layout_on(spec, {"c"}), (Layout{1, 1}));
}

TEST(ClusterFormation, StaysAboveTheLeastNumberOfRanks) {
  LaunchSpec spec = spec_on({"a", "b", "c"}, {2, 3}, 4);
  spec.control_address = "10.0.0.9";
  EXPECT_EQ(layout_on(spec, {"a", "c"}), (Layout{2, 2}));
  EXPECT_EQ(layout_on(spec, {"a"}), (Layout{0, 0}));
}

TEST(ClusterFormation, RanksFillOneHostAfterAnother) {
  const auto of = [](Layout layout, std::vector<std::string> hosts) {
    return hosts_of_ranks({.choice = {.layout = layout}, .hosts = std::move(hosts)});
  };
  EXPECT_THAT(of({2, 2}, {"a", "b"}), ElementsAre("a", "a", "b", "b"));
  EXPECT_THAT(of({1, 3}, {"a:2", "b:4"}), ElementsAre("a:2", "a:2", "b:4"));
  EXPECT_THAT(of({1, 1}, {"a", "b"}), ElementsAre("b"));  // one is left without
  EXPECT_THAT(of({2, 1}, {}), ElementsAre("", ""));
}

TEST(ClusterFormation, ALaunchHasWhatItsLayoutNeeds) {
  const LaunchSpec spec = spec_on({"a", "b"}, {2, 2});
  const LaunchSpec launched =
      in_formation(spec, {.choice = {.layout = {1, 3}, .kv_bytes = 7}, .hosts = {"b"}});
  EXPECT_EQ(launched.job.layout, (Layout{1, 3}));
  EXPECT_EQ(launched.job.kv_bytes, 7);
  EXPECT_EQ(launched.job.max_plans_in_flight, 4);
  EXPECT_THAT(launched.hosts, ElementsAre("b"));
}

}  // namespace
}  // namespace trireme
