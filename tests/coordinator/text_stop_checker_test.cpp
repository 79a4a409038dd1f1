#include "coordinator/text/stop_checker.h"

#include <gtest/gtest.h>

#include <random>

namespace trireme {
namespace {

struct Outcome {
  std::string text;
  std::optional<std::string> stop;
  bool operator==(const Outcome&) const = default;
};

Outcome feed_all(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopChecker checker(stops);
  Outcome outcome;
  for (const std::string& piece : pieces) {
    StopChecker::Output output = checker.feed(piece);
    outcome.text += output.text;
    if (output.stop) {
      outcome.stop = output.stop;
      return outcome;
    }
  }
  outcome.text += checker.flush();
  return outcome;
}

TEST(TextStopChecker, HoldsBackOnlyWhatMayBecomeAStop) {
  StopChecker checker({"END", "\n\n"});
  EXPECT_EQ(checker.feed("one EN").text, "one ");
  EXPECT_EQ(checker.feed("emy\n").text, "ENemy");
  EXPECT_EQ(checker.feed("two").text, "\ntwo");
  const StopChecker::Output output = checker.feed(" EEND after");
  EXPECT_EQ(output.text, " E");
  EXPECT_EQ(output.stop, "END");
}

TEST(TextStopChecker, FlushGivesTheRest) {
  StopChecker checker({"END"});
  EXPECT_EQ(checker.feed("the EN").text, "the ");
  EXPECT_EQ(checker.flush(), "EN");
  EXPECT_EQ(checker.flush(), "");
}

TEST(TextStopChecker, FirstCompleteThenLongestWins) {
  EXPECT_EQ(feed_all({"abc", "ab"}, {"xabc"}), (Outcome{"x", "ab"}));
  EXPECT_EQ(feed_all({"c", "abc"}, {"xabc"}), (Outcome{"x", "abc"}));
  EXPECT_EQ(feed_all({"bcd", "abcde"}, {"xabcde"}), (Outcome{"xa", "bcd"}));
}

TEST(TextStopChecker, EmptyStopsStopNothing) {
  EXPECT_EQ(feed_all({""}, {"abc"}), (Outcome{"abc", std::nullopt}));
  EXPECT_EQ(feed_all({}, {"abc"}), (Outcome{"abc", std::nullopt}));
}

TEST(TextStopChecker, StopsInsideMultibyteText) {
  EXPECT_EQ(feed_all({"\u4e16\u754c"}, {"\u4f60\u597d\u4e16", "\u754c!"}),
            (Outcome{"\u4f60\u597d", "\u4e16\u754c"}));
  EXPECT_EQ(feed_all({"\u4e16\u754c"}, {"\u4e16", "\u4e16"}),
            (Outcome{"\u4e16\u4e16", std::nullopt}));
}

TEST(TextStopChecker, WhereNoneMayEndNoneDoes) {
  StopChecker checker({"END", "xENDyz"});
  EXPECT_EQ(checker.feed("an END", /*may_stop=*/false).text, "an END");
  // Begun before, ended after: it counts. Ended before, as part of a longer one: it does not.
  EXPECT_EQ(checker.feed(" xENDy", /*may_stop=*/false).text, " ");
  const StopChecker::Output output = checker.feed("z");
  EXPECT_EQ(output.text, "");
  EXPECT_EQ(output.stop, "xENDyz");

  StopChecker other({"END", "xENDyz"});
  EXPECT_EQ(other.feed("xENDy", /*may_stop=*/false).text, "");
  EXPECT_EQ(other.feed("!").text, "xENDy!");
  EXPECT_EQ(other.feed("END").stop, "END");
}

TEST(TextStopChecker, TheOutcomeDoesNotDependOnThePieces) {
  std::mt19937 random(3);
  const auto text_of = [&](size_t size) {
    std::string text(size, ' ');
    for (char& c : text) {
      c = static_cast<char>('a' + random() % 3);
    }
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < 1 + random() % 3; ++i) {
      stops.push_back(text_of(1 + random() % 5));
    }
    const std::string text = text_of(1 + random() % 30);
    std::vector<std::string> pieces;
    for (size_t from = 0; from < text.size();) {
      pieces.push_back(text.substr(from, 1 + random() % 6));
      from += pieces.back().size();
    }
    std::vector<std::string> letters;
    for (const char c : text) {
      letters.emplace_back(1, c);
    }
    const Outcome whole = feed_all(stops, {text});
    EXPECT_EQ(whole, feed_all(stops, pieces));
    EXPECT_EQ(whole, feed_all(stops, letters));
    EXPECT_EQ(whole.text, text.substr(0, whole.text.size()));
  }
}

}  // namespace
}  // namespace trireme
