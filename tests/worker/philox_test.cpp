#include "worker/philox.h"

#include <gtest/gtest.h>

#include <set>

namespace trireme {
namespace {

// The known answers that come with the generator's paper (Random123, kat_vectors).
TEST(Philox, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, NoiseDependsOnEverySeedChoiceAndIndex) {
  std::set<double> seen;
  for (uint64_t seed : {0ULL, 1ULL, 1ULL << 32U, ~0ULL}) {
    for (uint32_t choice = 0; choice < 3; ++choice) {
      for (uint32_t index = 0; index < 50; ++index) {
        const double u = sampling_noise(seed, choice, index);
        EXPECT_GT(u, 0.0);
        EXPECT_LT(u, 1.0);
        seen.insert(u);
      }
    }
  }
  EXPECT_EQ(seen.size(), 4U * 3U * 50U);
}

}  // namespace
}  // namespace trireme
