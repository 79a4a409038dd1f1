#include "comm/region_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace trireme::test {
namespace {

using Extent = std::pair<size_t, size_t>;  // [begin, end)

std::vector<Extent> all_extents(const RegionLayout& layout) {
  std::vector<Extent> out{{0, sizeof(RegionHeader)}};
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    const int n = layout.groups[g].n_members;
    const auto group = static_cast<int>(g);
    for (int i = 0; i < n; ++i) {
      const size_t member =
          layout.groups[g].members + static_cast<size_t>(i) * sizeof(MemberControl);
      out.emplace_back(member, member + sizeof(MemberControl));
      for (uint32_t step = 0; n > 1 && step < 2; ++step) {
        const size_t slot = layout.slot(group, i, step);
        out.emplace_back(slot, slot + layout.slot_bytes);
      }
      for (int j = 0; j < n; ++j) {
        if (i == j) continue;
        const size_t mailbox = layout.mailbox(group, i, j);
        const size_t ring = layout.ring(group, i, j);
        out.emplace_back(mailbox, mailbox + sizeof(MailboxControl));
        out.emplace_back(ring, ring + layout.ring_bytes);
      }
    }
  }
  return out;
}

TEST(RegionLayout, PartsAreAlignedInsideAndApart) {
  for (int tp = 1; tp <= 5; ++tp) {
    for (int pp = 1; pp <= 4; ++pp) {
      const RegionLayout layout = make_region_layout(
          {.tp = tp, .pp = pp, .max_message_bytes = 100'001, .piece_bytes = 10'000});
      ASSERT_EQ(layout.groups.size(), static_cast<size_t>(tp + pp));
      std::vector<Extent> extents = all_extents(layout);
      std::sort(extents.begin(), extents.end());
      for (size_t i = 0; i < extents.size(); ++i) {
        EXPECT_EQ(extents[i].first % kCacheLine, 0U);
        EXPECT_LE(extents[i].second, layout.size_bytes);
        if (i == 0) continue;
        EXPECT_LE(extents[i - 1].second, extents[i].first);
      }
    }
  }
}

TEST(RegionLayout, ASlotHoldsAPieceAndARingTwoMessages) {
  const RegionLayout layout =
      make_region_layout({.tp = 2, .pp = 1, .max_message_bytes = 100'001, .piece_bytes = 10'000});
  EXPECT_GE(layout.slot_bytes, 10'000U);
  EXPECT_GE(layout.ring_bytes, 2 * (100'001U + kCacheLine));
  EXPECT_EQ(layout.ring_bytes % kCacheLine, 0U);
}

TEST(RegionLayout, ConsecutiveStepsUseDifferentSlots) {
  const RegionLayout layout = make_region_layout({.tp = 2});
  EXPECT_NE(layout.slot(0, 1, 6), layout.slot(0, 1, 7));
  EXPECT_EQ(layout.slot(0, 1, 6), layout.slot(0, 1, 8));
}

}  // namespace
}  // namespace trireme::test
