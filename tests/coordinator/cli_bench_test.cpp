#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "coordinator/cli/bench_report.h"
#include "coordinator/cli/commands.h"
#include "kernels/result.h"

namespace trireme {
namespace {

using testing::HasSubstr;

// Steps answered every 0.1 s from 1 s on.
BenchBatch batch_of(std::vector<BenchStream> streams, int n_steps) {
  BenchBatch batch;
  batch.streams = std::move(streams);
  for (int step = 0; step < n_steps; ++step) batch.step_times_s.push_back(1.0 + 0.1 * step);
  return batch;
}

TEST(BenchMeasure, PrefillEndsWithTheLastFirstToken) {
  const BenchBatch batch = batch_of({{1.0, 3.0, {0}}, {1.5, 5.0, {1}}, {1.5, 3.5, {1}}}, 2);
  EXPECT_DOUBLE_EQ(prefill_rate(batch, 1200), 300.0);
  EXPECT_DOUBLE_EQ(first_token_seconds(batch), 2.0);
}

TEST(BenchMeasure, DecodeCountsOnlyStepsInWhichAllStreamsRun) {
  // The first begins early, the second ends early: steps 3 to 5 count, two tokens each.
  const BenchBatch batch = batch_of({{0, 0, {0, 1, 2, 3, 4, 5, 6, 7}}, {0, 0, {2, 3, 4, 5}}}, 8);
  EXPECT_NEAR(decode_rate(batch), 6 / 0.3, 1e-9);
}

TEST(BenchMeasure, OneStreamLeavesOutItsFirstToken) {
  EXPECT_NEAR(decode_rate(batch_of({{0, 0, {1, 2, 3, 4, 5}}}, 6)), 10.0, 1e-9);
}

TEST(BenchMeasure, StreamsThatNeverMeetHaveNoRate) {
  EXPECT_EQ(decode_rate(batch_of({{0, 0, {0, 1}}, {0, 0, {2, 3}}}, 4)), 0.0);
  EXPECT_EQ(decode_rate(batch_of({{0, 0, {0}}}, 1)), 0.0);
}

TEST(BenchMeasure, SpreadHasTheMedianOfEvenAndOddNumbers) {
  const Spread odd = spread_of({3.0, 1.0, 2.0});
  EXPECT_EQ(odd.median, 2.0);
  EXPECT_EQ(odd.min, 1.0);
  EXPECT_EQ(odd.max, 3.0);
  EXPECT_EQ(spread_of({4.0, 1.0, 2.0, 3.0}).median, 2.5);
}

TEST(BenchMeasure, LongPromptsKeepTheFirstStreamGoingLonger) {
  EXPECT_EQ(prefill_steps(1, 5000, 512), 0);
  EXPECT_EQ(prefill_steps(16, 512, 512), 18);  // 8192 tokens at 497 a step, and one more
  EXPECT_EQ(prefill_steps(16, 16, 16), 257);
}

BenchReport small_report() {
  BenchReport report;
  report.model = "/models/m";
  report.start_to_first_token_s = 0.25;
  report.rows = {{512, 2, 16, {100.0, 300.0, 200.0}, {0.5, 0.5, 0.5}, {20.0, 21.0, 22.0}}};
  report.ranks = {{0, 1024, 2048, 4096}, {1, 1024, 2048, 0}};
  return report;
}

TEST(BenchReport, TextHasMedianAndSpread) {
  const std::string text = bench_text(small_report());
  EXPECT_THAT(text, HasSubstr("200.0 (100.0-300.0)"));
  EXPECT_THAT(text, HasSubstr("500.0 (500.0-500.0)"));
  EXPECT_THAT(text, HasSubstr("21.0 (20.0-22.0)"));
  EXPECT_THAT(text, HasSubstr("first token: 0.25 s"));
  EXPECT_THAT(text, HasSubstr("rank 0: weights 1.0 KiB, KV cache 2.0 KiB, resident 4.0 KiB\n"));
  EXPECT_THAT(text, HasSubstr("rank 1: weights 1.0 KiB, KV cache 2.0 KiB\n"));
}

TEST(BenchReport, JsonHoldsEveryRun) {
  const auto json = nlohmann::json::parse(bench_json(small_report()));
  const auto& row = json["rows"][0];
  EXPECT_EQ(row["prompt"], 512);
  EXPECT_EQ(row["streams"], 2);
  EXPECT_EQ(row["context"], 16);
  EXPECT_EQ(row["prefill"]["median"], 200.0);
  EXPECT_EQ(row["decode"]["runs"].size(), 3U);
  EXPECT_EQ(row["first_token_s"]["max"], 0.5);
  EXPECT_EQ(json["ranks"][1]["resident_bytes"], 0);
}

TEST(BenchCommand, RefusesValuesOutOfRange) {
  const auto refusal = [](BenchOptions options) -> std::string {
    try {
      bench_command(options);
    } catch (const EnvironmentError& error) {
      return error.what();
    }
    return "";
  };
  BenchOptions options;
  options.n_prompt_tokens = {512, 0};
  EXPECT_THAT(refusal(options), HasSubstr("--prompt 0"));
  options = {};
  options.n_streams = {5000};
  EXPECT_THAT(refusal(options), HasSubstr("--streams 5000"));
  options = {};
  options.n_generated = 0;
  EXPECT_THAT(refusal(options), HasSubstr("--generate 0"));
  options = {};
  options.context = -1;
  EXPECT_THAT(refusal(options), HasSubstr("--context -1"));
  options = {};
  options.n_repeats = 0;
  EXPECT_THAT(refusal(options), HasSubstr("--repeat 0"));
}

}  // namespace
}  // namespace trireme
