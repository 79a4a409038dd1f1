#include "coordinator/serving/drafter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/serving/ngram_drafter.h"
#include "coordinator/serving/sequence.h"

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TokenLog log_of(std::vector<int32_t> prompt, std::vector<int32_t> output = {}) {
  TokenLog log;
  log.request.prompt_ids = std::move(prompt);
  log.output_ids = std::move(output);
  return log;
}

TEST(NgramDrafter, GuessesWhatFollowedTheLastTokens) {
  NgramDrafter drafter;
  EXPECT_THAT(drafter.guess(log_of({1, 2, 3, 4, 5, 6, 1, 2}, {3}), 3), ElementsAre(4, 5, 6));
}

TEST(NgramDrafter, PrefersThreeTokensToTwoAndTheLatestToTheFirst) {
  NgramDrafter drafter;
  EXPECT_THAT(drafter.guess(log_of({1, 2, 3, 70, 9, 2, 3, 80, 1, 2, 3}), 1), ElementsAre(70));
  NgramDrafter other;
  EXPECT_THAT(other.guess(log_of({1, 2, 70, 9, 1, 2, 80, 5, 1, 2}), 1), ElementsAre(80));
}

TEST(NgramDrafter, FollowsTheLogAsItGrows) {
  NgramDrafter drafter;
  TokenLog log = log_of({1, 2, 3});
  EXPECT_THAT(drafter.guess(log, 4), IsEmpty());
  log.output_ids = {4, 1, 2};
  EXPECT_THAT(drafter.guess(log, 2), ElementsAre(3, 4));
  log.output_ids = {4, 1, 2, 9, 1, 2};
  EXPECT_THAT(drafter.guess(log, 2), ElementsAre(9, 1));
}

TEST(NgramDrafter, GoesOnWithAShortPeriod) {
  NgramDrafter drafter;
  EXPECT_THAT(drafter.guess(log_of({5, 6, 5, 6, 5}), 5), ElementsAre(6, 5, 6, 5, 6));
  NgramDrafter same;
  EXPECT_THAT(same.guess(log_of({7, 7, 7}), 4), ElementsAre(7, 7, 7, 7));
}

TEST(NgramDrafter, HasNothingToSayOfShortOrNewText) {
  NgramDrafter drafter;
  EXPECT_THAT(drafter.guess(log_of({1}), 4), IsEmpty());
  NgramDrafter other;
  EXPECT_THAT(other.guess(log_of({1, 2, 3, 4, 5}), 4), IsEmpty());
}

TEST(GuessPace, FollowsHowOftenGuessesAreRight) {
  GuessPace pace(8);
  EXPECT_EQ(pace.next(), 8);
  pace.learn(8, 0);
  EXPECT_EQ(pace.next(), 1);
  pace.learn(1, 1);
  EXPECT_EQ(pace.next(), 2);
  pace.learn(2, 2);
  pace.learn(4, 4);
  EXPECT_EQ(pace.next(), 8);
  pace.learn(8, 8);
  EXPECT_EQ(pace.next(), 8) << "no more than was allowed";
  pace.learn(8, 3);
  EXPECT_EQ(pace.next(), 4);
}

}  // namespace
}  // namespace trireme
