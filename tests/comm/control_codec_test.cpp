#include "comm/control/control_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace trireme {
namespace {

std::span<const char> payload_of(const std::string& frame) {
  return std::span<const char>(frame).subspan(kFrameHeaderBytes);
}

template <typename T>
T round_trip(const T& in) {
  const std::string bytes = encode_frame(in);
  Result<ControlFrame> out = decode_frame(payload_of(bytes));
  EXPECT_TRUE(out.ok()) << out.error().message;
  EXPECT_TRUE(std::holds_alternative<T>(*out));
  return std::get<T>(*out);
}

// The field at fault after `change` to a frame that is otherwise fine.
template <typename T, typename Change>
std::string refused(T frame, Change change) {
  change(frame);
  const std::string bytes = encode_frame(frame);
  const Result<ControlFrame> out = decode_frame(payload_of(bytes));
  return out.ok() ? "accepted" : out.error().param;
}

SlotRules sample_rules() {
  LogitRules rules{.presence_penalty = -1.5F,
                   .frequency_penalty = 0.5F,
                   .repetition_penalty = 1.25F,
                   .min_tokens = 7,
                   .end_token_ids = {2, 128001},
                   .biases = {{.token_id = 3, .bias = -100.0F}, {.token_id = 9, .bias = 0.5F}},
                   .allowed_token_ids = {1, 2, 3},
                   .bad_words = {{4}, {5, 6, 7}, {8, 8}}};
  return {.rules = std::make_shared<LogitRules>(std::move(rules)),
          .seen = {{.token_id = 11, .n_output = 0}, {.token_id = 12, .n_output = 3}},
          .output_tail = {12, 13}};
}

StepPlan sample_plan() {
  StepPlan plan{.epoch = 7,
                .step_id = 1234567890123,
                .generation = 5,
                .trace = true,
                .feed_samples = true,
                .sequences = {}};
  SequencePlan a{.request_id = 1,
                 .model_id = 2,
                 .adapter_id = 3,
                 .choice = 4,
                 .slot = 5,
                 .reset_slot = true,
                 .start_position = 60,
                 .input_ids = {11, kTokenFromSlot, 128255},
                 .new_blocks = {0, 77, 1 << 30},
                 .sample = true,
                 .output_index = 9,
                 .sampling = {.temperature = 0.7F, .top_p = 0.9F, .top_k = 40, .seed = ~0ULL},
                 .want_logits = true,
                 .logprob_targets = {-1, 5, 6},
                 .n_logprobs = 3,
                 .slot_rules = nullptr,
                 .n_target_logprobs = 2};
  a.sampling.min_p = 0.25F;
  a.want_hidden = true;
  a.slot_rules = std::make_shared<SlotRules>(sample_rules());
  a.n_guesses = 2;
  plan.sequences = {a, SequencePlan{}};
  return plan;
}

TEST(ControlCodec, HelloAndJobComeBack) {
  const RankHello hello = round_trip(RankHello{.secret = std::string("s\0\xff", 3),
                                               .epoch = 3,
                                               .world_rank = 1,
                                               .world_size = 4,
                                               .pid = 4242,
                                               .host = "node-a",
                                               .build = "0.1.0"});
  EXPECT_EQ(hello.secret, std::string("s\0\xff", 3));
  EXPECT_EQ(hello.epoch, 3U);
  EXPECT_EQ(hello.world_rank, 1);
  EXPECT_EQ(hello.world_size, 4);
  EXPECT_EQ(hello.pid, 4242);
  EXPECT_EQ(hello.host, "node-a");
  EXPECT_EQ(hello.build, "0.1.0");

  const JobSpec job = round_trip(JobSpec{.weights = {{1, "/p/\xff.packed", ~0ULL}, {4, "/q", 3}},
                                         .model_path = "/m",
                                         .layout = {.tp = 3, .pp = 2},
                                         .hidden_size = 896,
                                         .n_threads = 5,
                                         .replica = 1,
                                         .n_replicas = 2,
                                         .context_length = 4096,
                                         .max_slots = 8,
                                         .max_batch_tokens = 512,
                                         .kv_bytes = int64_t{1} << 40,
                                         .kv_dtype = DType::kI8,
                                         .fuse = false,
                                         .kv_memory = {1, 2, ~0ULL, 4},
                                         .kv_host = "here",
                                         .max_plans_in_flight = 3,
                                         .heartbeat_ms = 51,
                                         .silence_ms = 3001,
                                         .cut_off_ms = 801,
                                         .comm_timeout_ms = 30001,
                                         .heartbeat_salt = std::string(16, '\xfe')});
  EXPECT_THAT(job.weights, testing::ElementsAre(WeightsFile{1, "/p/\xff.packed", ~0ULL},
                                                WeightsFile{4, "/q", 3}));
  EXPECT_EQ(job.model_path, "/m");
  EXPECT_EQ(job.layout, (Layout{.tp = 3, .pp = 2}));
  EXPECT_EQ(job.hidden_size, 896);
  EXPECT_FALSE(job.fuse);
  EXPECT_EQ(job.kv_memory, (MemoryAddress{1, 2, ~0ULL, 4}));
  EXPECT_EQ(job.kv_host, "here");
  EXPECT_EQ(job.n_threads, 5);
  EXPECT_EQ(job.replica, 1);
  EXPECT_EQ(job.n_replicas, 2);
  EXPECT_EQ(job.context_length, 4096);
  EXPECT_EQ(job.max_slots, 8);
  EXPECT_EQ(job.max_batch_tokens, 512);
  EXPECT_EQ(job.kv_bytes, int64_t{1} << 40);
  EXPECT_EQ(job.kv_dtype, DType::kI8);
  EXPECT_EQ(job.max_plans_in_flight, 3);
  EXPECT_EQ(job.heartbeat_ms, 51);
  EXPECT_EQ(job.heartbeat_salt, std::string(16, '\xfe'));
  EXPECT_EQ(job.silence_ms, 3001);
  EXPECT_EQ(job.cut_off_ms, 801);
  EXPECT_EQ(job.comm_timeout_ms, 30001);
}

TEST(ControlCodec, WeightsComeBack) {
  const WeightsOrder order =
      round_trip(WeightsOrder{.kind = WeightsOrder::Kind::kDrop, .file = {7, "/p\xff", ~0ULL - 1}});
  EXPECT_EQ(order.kind, WeightsOrder::Kind::kDrop);
  EXPECT_EQ(order.file, (WeightsFile{7, "/p\xff", ~0ULL - 1}));
  const WeightsPrepared prepared = round_trip(WeightsPrepared{
      .generation = 7, .fingerprint = ~0ULL, .numerics_id = "n", .failure = "damaged"});
  EXPECT_EQ(prepared.generation, 7U);
  EXPECT_EQ(prepared.fingerprint, ~0ULL);
  EXPECT_EQ(prepared.numerics_id, "n");
  EXPECT_EQ(prepared.failure, "damaged");
  EXPECT_EQ(refused(WeightsOrder{}, [](WeightsOrder& o) { o.kind = WeightsOrder::Kind(3); }),
            "kind");
  EXPECT_EQ(refused(WeightsOrder{}, [](WeightsOrder& o) { o.file.path.assign(9000, 'x'); }),
            "path");
  EXPECT_EQ(refused(WeightsPrepared{}, [](WeightsPrepared& p) { p.numerics_id.assign(2000, 'x'); }),
            "numerics_id");
  EXPECT_EQ(refused(JobSpec{}, [](JobSpec& j) { j.weights.resize(3); }), "weights");
}

TEST(ControlCodec, MasksComeBack) {
  const TokenMask mask = round_trip(
      TokenMask{.epoch = 3, .step_id = 4, .request_id = 5, .words = {0, 0x80000001U, ~0U}});
  EXPECT_EQ(mask.epoch, 3U);
  EXPECT_EQ(mask.step_id, 4U);
  EXPECT_EQ(mask.request_id, 5U);
  EXPECT_THAT(mask.words, testing::ElementsAre(0U, 0x80000001U, ~0U));
  EXPECT_TRUE(round_trip(TokenMask{}).words.empty());
  EXPECT_EQ(refused(TokenMask{}, [](TokenMask& m) { m.words = {0, 0}; }), "words");
}

TEST(ControlCodec, StateReadyAndStartComeBack) {
  const RankState state = round_trip(RankState{.tick = 99,
                                               .activity = RankActivity::kWaiting,
                                               .waiting_op = 3,
                                               .waiting_peer = -1,
                                               .loaded_bytes = 10,
                                               .total_bytes = 20,
                                               .busy_us = 30,
                                               .comm_us = 40,
                                               .stage_wait_us = 25});
  EXPECT_EQ(state.tick, 99U);
  EXPECT_EQ(state.activity, RankActivity::kWaiting);
  EXPECT_EQ(state.waiting_op, 3);
  EXPECT_EQ(state.waiting_peer, -1);
  EXPECT_EQ(state.loaded_bytes, 10U);
  EXPECT_EQ(state.total_bytes, 20U);
  EXPECT_EQ(state.busy_us, 30U);
  EXPECT_EQ(state.comm_us, 40U);
  EXPECT_EQ(state.stage_wait_us, 25U);

  const RankReady ready = round_trip(RankReady{.kv_blocks = 12,
                                               .kv_kept = 11,
                                               .numerics_id = "0.1.0/cpu",
                                               .device = "cpu:avx512, 2 threads",
                                               .weight_bytes = 1,
                                               .kv_bytes = 2,
                                               .workspace_bytes = 3});
  EXPECT_EQ(ready.kv_blocks, 12);
  EXPECT_EQ(ready.kv_kept, 11);
  EXPECT_EQ(ready.numerics_id, "0.1.0/cpu");
  EXPECT_EQ(ready.device, "cpu:avx512, 2 threads");
  EXPECT_EQ(ready.weight_bytes, 1U);
  EXPECT_EQ(ready.kv_bytes, 2U);
  EXPECT_EQ(ready.workspace_bytes, 3U);
  const GroupStart start = round_trip(GroupStart{.kv_blocks = 8, .keep_kv = true});
  EXPECT_EQ(start.kv_blocks, 8);
  EXPECT_TRUE(start.keep_kv);
  EXPECT_EQ(round_trip(ControlFailure{.message = "no\nroom"}).message, "no\nroom");
  round_trip(ControlDrain{});
  EXPECT_EQ(round_trip(ControlPing{.quiet_ms = 2999}).quiet_ms, 2999);
  round_trip(ControlRenew{});
}

TEST(ControlCodec, PlanComesBack) {
  const StepPlan in = sample_plan();
  const StepPlan out = round_trip(in);
  EXPECT_EQ(out.epoch, in.epoch);
  EXPECT_EQ(out.step_id, in.step_id);
  EXPECT_TRUE(out.trace);
  EXPECT_TRUE(out.feed_samples);
  ASSERT_EQ(out.sequences.size(), 2U);
  const SequencePlan& a = out.sequences[0];
  const SequencePlan& b = in.sequences[0];
  EXPECT_EQ(a.request_id, b.request_id);
  EXPECT_EQ(a.model_id, b.model_id);
  EXPECT_EQ(a.adapter_id, b.adapter_id);
  EXPECT_EQ(a.choice, b.choice);
  EXPECT_EQ(a.slot, b.slot);
  EXPECT_EQ(a.reset_slot, b.reset_slot);
  EXPECT_EQ(a.start_position, b.start_position);
  EXPECT_EQ(a.input_ids, b.input_ids);
  EXPECT_EQ(a.new_blocks, b.new_blocks);
  EXPECT_EQ(a.sample, b.sample);
  EXPECT_EQ(a.output_index, b.output_index);
  EXPECT_EQ(a.sampling.temperature, b.sampling.temperature);
  EXPECT_EQ(a.sampling.top_p, b.sampling.top_p);
  EXPECT_EQ(a.sampling.top_k, b.sampling.top_k);
  EXPECT_EQ(a.sampling.seed, b.sampling.seed);
  EXPECT_EQ(a.want_logits, b.want_logits);
  EXPECT_EQ(a.logprob_targets, b.logprob_targets);
  EXPECT_EQ(a.n_logprobs, b.n_logprobs);
  EXPECT_EQ(a.sampling.min_p, b.sampling.min_p);
  EXPECT_EQ(a.n_target_logprobs, b.n_target_logprobs);
  EXPECT_TRUE(a.want_hidden);
  EXPECT_FALSE(out.sequences[1].want_hidden);
  EXPECT_EQ(a.n_guesses, b.n_guesses);
  EXPECT_TRUE(out.sequences[1].input_ids.empty());
  EXPECT_EQ(out.sequences[1].slot_rules, nullptr);

  ASSERT_NE(a.slot_rules, nullptr);
  const LogitRules& rules = *a.slot_rules->rules;
  EXPECT_EQ(rules.presence_penalty, -1.5F);
  EXPECT_EQ(rules.frequency_penalty, 0.5F);
  EXPECT_EQ(rules.repetition_penalty, 1.25F);
  EXPECT_EQ(rules.min_tokens, 7);
  EXPECT_THAT(rules.end_token_ids, testing::ElementsAre(2, 128001));
  ASSERT_EQ(rules.biases.size(), 2U);
  EXPECT_EQ(rules.biases[0].token_id, 3);
  EXPECT_EQ(rules.biases[0].bias, -100.0F);
  EXPECT_THAT(rules.allowed_token_ids, testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(rules.bad_words, (std::vector<std::vector<int32_t>>{{4}, {5, 6, 7}, {8, 8}}));
  ASSERT_EQ(a.slot_rules->seen.size(), 2U);
  EXPECT_EQ(a.slot_rules->seen[1].token_id, 12);
  EXPECT_EQ(a.slot_rules->seen[1].n_output, 3);
  EXPECT_THAT(a.slot_rules->output_tail, testing::ElementsAre(12, 13));
}

TEST(ControlCodec, ResultComesBackBitForBit) {
  StepResult in{.epoch = 1, .step_id = 2, .world_rank = 3, .sequences = {}, .trace = {}};
  in.sequences.push_back({.request_id = 8,
                          .slot = 1,
                          .drawn = {{42, -0.25F, {{42, -0.25F}, {7, -1.5F}}},
                                    {8, -1.5F, {{8, -1.5F}, {9, -2.5F}}},
                                    {10, -0.5F, {}}},
                          .logits = {1.0F, -0.0F, std::numeric_limits<float>::denorm_min(), 3e38F},
                          .target_logprobs = {-1.0F},
                          .target_top_logprobs = {{}, {{5, -0.5F}, {6, -2.0F}}, {{7, -3.0F}}}});
  in.sequences.push_back({});
  in.sequences[1].hidden = {0.5F, -0.0F, -3e38F};
  in.trace = {{.layer = -1, .op = 2, .unit = 3, .hash = ~0ULL}, {}};
  const StepResult out = round_trip(in);
  EXPECT_EQ(out.world_rank, 3);
  ASSERT_EQ(out.sequences.size(), 2U);
  EXPECT_EQ(out.sequences[0].request_id, 8U);
  EXPECT_EQ(out.sequences[0].slot, 1);
  const std::vector<DrawnToken>& drawn = out.sequences[0].drawn;
  ASSERT_EQ(drawn.size(), 3U);
  for (size_t i = 0; i < drawn.size(); ++i) {
    const DrawnToken& sent = in.sequences[0].drawn[i];
    EXPECT_EQ(drawn[i].token_id, sent.token_id);
    EXPECT_EQ(drawn[i].logprob, sent.logprob);
    ASSERT_EQ(drawn[i].top_logprobs.size(), sent.top_logprobs.size());
    for (size_t k = 0; k < sent.top_logprobs.size(); ++k) {
      EXPECT_EQ(drawn[i].top_logprobs[k].token_id, sent.top_logprobs[k].token_id);
      EXPECT_EQ(drawn[i].top_logprobs[k].logprob, sent.top_logprobs[k].logprob);
    }
  }
  EXPECT_EQ(out.sequences[0].logits, in.sequences[0].logits);
  EXPECT_TRUE(std::signbit(out.sequences[0].logits[1]));
  EXPECT_EQ(out.sequences[0].target_logprobs, in.sequences[0].target_logprobs);
  ASSERT_EQ(out.sequences[0].target_top_logprobs.size(), 3U);
  EXPECT_TRUE(out.sequences[0].target_top_logprobs[0].empty());
  ASSERT_EQ(out.sequences[0].target_top_logprobs[1].size(), 2U);
  EXPECT_EQ(out.sequences[0].target_top_logprobs[1][1].token_id, 6);
  EXPECT_EQ(out.sequences[0].target_top_logprobs[2][0].logprob, -3.0F);
  EXPECT_TRUE(out.sequences[0].hidden.empty());
  EXPECT_EQ(out.sequences[1].hidden, in.sequences[1].hidden);
  EXPECT_TRUE(std::signbit(out.sequences[1].hidden[1]));
  EXPECT_TRUE(out.sequences[1].drawn.empty());
  ASSERT_EQ(out.trace.size(), 2U);
  EXPECT_EQ(out.trace[0].layer, -1);
  EXPECT_EQ(out.trace[0].op, 2);
  EXPECT_EQ(out.trace[0].unit, 3);
  EXPECT_EQ(out.trace[0].hash, ~0ULL);
}

TEST(ControlCodec, OutOfRangeFieldsAreNamed) {
  const auto hello = [](auto change) {
    RankHello h;
    h.world_size = 2;
    return refused(h, change);
  };
  EXPECT_EQ(hello([](RankHello&) {}), "accepted");
  EXPECT_EQ(hello([](RankHello& h) { h.world_rank = 2; }), "world_rank");
  EXPECT_EQ(hello([](RankHello& h) { h.world_rank = -1; }), "world_rank");
  EXPECT_EQ(hello([](RankHello& h) { h.world_size = 1 << 30; }), "world_size");
  EXPECT_EQ(hello([](RankHello& h) { h.host = std::string(2000, 'x'); }), "host");
  EXPECT_EQ(refused(JobSpec(), [](JobSpec& j) { j.layout = {4096, 2}; }), "pp");
  EXPECT_EQ(refused(JobSpec(), [](JobSpec& j) { j.n_threads = -1; }), "n_threads");
  EXPECT_EQ(refused(JobSpec(), [](JobSpec& j) { j.replica = 1; }), "replica");
  EXPECT_EQ(refused(JobSpec(), [](JobSpec& j) { j.hidden_size = -1; }), "hidden_size");
  EXPECT_EQ(refused(RankState(), [](RankState& s) { s.waiting_peer = -2; }), "waiting_peer");
  EXPECT_EQ(refused(RankState(), [](RankState& s) { s.activity = static_cast<RankActivity>(9); }),
            "activity");
  EXPECT_EQ(refused(RankReady(), [](RankReady& r) { r.kv_blocks = -1; }), "kv_blocks");
  EXPECT_EQ(refused(RankReady(), [](RankReady& r) { r.kv_kept = -1; }), "kv_kept");
  EXPECT_EQ(refused(GroupStart(), [](GroupStart& s) { s.kv_blocks = 0; }), "kv_blocks");
  EXPECT_EQ(refused(StepResult(), [](StepResult& r) { r.world_rank = -1; }), "world_rank");

  const auto plan = [](auto change) {
    return refused(sample_plan(), [&](StepPlan& p) { change(p.sequences[0]); });
  };
  EXPECT_EQ(plan([](SequencePlan&) {}), "accepted");
  EXPECT_EQ(plan([](SequencePlan& s) { s.slot = -1; }), "slot");
  EXPECT_EQ(plan([](SequencePlan& s) { s.start_position = -5; }), "start_position");
  EXPECT_EQ(plan([](SequencePlan& s) { s.input_ids[0] = -2; }), "input_ids");
  EXPECT_EQ(plan([](SequencePlan& s) { s.new_blocks[0] = -1; }), "new_blocks");
  EXPECT_EQ(plan([](SequencePlan& s) { s.logprob_targets.pop_back(); }), "logprob_targets");
  EXPECT_EQ(plan([](SequencePlan& s) { s.n_logprobs = -1; }), "n_logprobs");
  EXPECT_EQ(plan([](SequencePlan& s) { s.sampling.temperature = std::nanf(""); }), "temperature");
  EXPECT_EQ(plan([](SequencePlan& s) { s.sampling.top_k = -1; }), "top_k");
  EXPECT_EQ(plan([](SequencePlan& s) { s.sampling.min_p = std::nanf(""); }), "min_p");
  EXPECT_EQ(plan([](SequencePlan& s) { s.n_target_logprobs = -1; }), "n_target_logprobs");
  EXPECT_EQ(plan([](SequencePlan& s) { s.reset_slot = false; }), "slot_rules");
  EXPECT_EQ(plan([](SequencePlan& s) { s.n_guesses = -1; }), "n_guesses");
  EXPECT_EQ(plan([](SequencePlan& s) { s.n_guesses = 3; }), "n_guesses") << "no token is certain";
  EXPECT_EQ(plan([](SequencePlan& s) { s.sample = false; }), "n_guesses");
  EXPECT_EQ(plan([](SequencePlan& s) { s.masked = true; }), "n_guesses");

  const auto slot_rules = [&](auto change) {
    return plan([&](SequencePlan& s) {
      SlotRules slot = sample_rules();
      LogitRules rules = *slot.rules;
      change(slot, rules);
      slot.rules = std::make_shared<LogitRules>(rules);
      s.slot_rules = std::make_shared<SlotRules>(slot);
    });
  };
  EXPECT_EQ(slot_rules([](SlotRules&, LogitRules&) {}), "accepted");
  EXPECT_EQ(slot_rules([](SlotRules&, LogitRules& r) { r.repetition_penalty = 0.0F; }),
            "repetition_penalty");
  EXPECT_EQ(slot_rules([](SlotRules&, LogitRules& r) { r.presence_penalty = std::nanf(""); }),
            "presence_penalty");
  EXPECT_EQ(slot_rules([](SlotRules&, LogitRules& r) { r.biases[0].token_id = -1; }), "bias_ids");
  EXPECT_EQ(slot_rules([](SlotRules&, LogitRules& r) { r.bad_words[1].clear(); }),
            "bad_word_sizes");
  EXPECT_EQ(slot_rules([](SlotRules& s, LogitRules&) { s.seen[0].n_output = -1; }), "seen_counts");
  EXPECT_EQ(slot_rules([](SlotRules& s, LogitRules&) { s.output_tail[0] = -1; }), "output_tail");
}

TEST(ControlCodec, TruncatedAndRandomBytesNeverCrash) {
  const std::string frame = encode_frame(sample_plan());
  const std::span<const char> whole = payload_of(frame);
  for (size_t n = 0; n < whole.size(); ++n) {
    EXPECT_FALSE(decode_frame(whole.first(n)).ok()) << n;
  }

  std::mt19937 random(1);
  int n_decoded = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes(whole.begin(), whole.end());
    if (round % 2 == 0) {
      bytes.resize(random() % 200);
      for (char& c : bytes) c = static_cast<char>(random());
    } else {
      for (int flips = 0; flips < 3; ++flips) {
        bytes[random() % bytes.size()] = static_cast<char>(random());
      }
    }
    const Result<ControlFrame> out = decode_frame(bytes);
    if (!out.ok()) continue;
    ++n_decoded;
    // What passed is in range, whatever it came from.
    if (const auto* plan = std::get_if<StepPlan>(&*out)) {
      for (const SequencePlan& s : plan->sequences) {
        ASSERT_GE(s.slot, 0);
        ASSERT_GE(s.start_position, 0);
        ASSERT_TRUE(s.logprob_targets.empty() || s.logprob_targets.size() == s.input_ids.size());
        for (const int32_t id : s.input_ids) ASSERT_GE(id, kTokenFromSlot);
      }
    }
  }
  EXPECT_GT(n_decoded, 0);
}

}  // namespace
}  // namespace trireme
