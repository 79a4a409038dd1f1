#include <gtest/gtest.h>

#include "coordinator/handover/handover_codec.h"
#include "coordinator/http/metrics.h"
#include "coordinator/serving/scheduler.h"
#include "kernels/result.h"

namespace trireme {
namespace {

Sequence some_sequence() {
  Sequence sequence;
  sequence.id = 71;
  sequence.log.request.prompt_ids = {5, 6, 7};
  sequence.log.request.sampling = {
      .temperature = 0.1F, .top_p = 0.7F, .top_k = 3, .seed = 0xFFFFFFFFFFFFFFFFU};
  sequence.log.request.stop_token_ids = {2};
  sequence.log.request.n_logprobs = 4;
  sequence.log.request.priority = -3;
  LogitRules rules{.presence_penalty = 0.5F, .biases = {{.token_id = 4, .bias = 1.5F}}};
  rules.bad_words = {{1, 2}};
  sequence.log.request.rules = std::make_shared<LogitRules>(rules);
  sequence.log.request.n_prompt_logprobs = 1;
  sequence.log.prompt_top_logprobs = {{{.token_id = 6, .logprob = -0.125F}}};
  sequence.log.request.grammar = {.tag = "regex", .text = "é+"};
  sequence.log.output_ids = {8, 9};
  sequence.log.request.cache_salt = "alice\nsalt";
  sequence.log.request.want_embedding = true;
  sequence.log.request.tenant = "alice";
  sequence.log.n_cached_prompt = 2;
  sequence.log.prompt_logprobs = {-0.125F};
  sequence.log.n_prompt_logprobs = 1;
  sequence.kv.blocks = {11, 4};
  sequence.kv.n_computed = 19;
  sequence.resumes = true;
  sequence.suspect = true;
  sequence.proof_length = 6;
  sequence.numerics_id = "numerics";
  return sequence;
}

AnswerState some_answer() {
  AnswerState answer;
  answer.endpoint = "/v1/completions";
  answer.id = "cmpl-1";
  answer.created = 1700000000;
  answer.call.prompts = {{.ids = {5, 6, 7}, .text = "a\nb"}};
  answer.call.n = 2;
  answer.call.tenant = "alice";
  answer.call.text.stop = {"\xC3\xA9nd"};
  answer.call.grammar = {.tag = "lark", .text = "start: \"a\""};
  answer.call.message = {.tools = ToolFormat::kMistral, .reasoning = true};
  answer.call.response_fields = R"({"user":null})";
  answer.call.tensors = {.id = "x",
                         .outputs = {{.output = TensorReply::Output::kIds, .binary = true}},
                         .column = true};
  answer.choices.resize(2);
  answer.choices[1] = {.request_id = 71, .done = false, .told = true, .log = {}};
  answer.choices[1].log.token_ids = {8, 9};
  answer.choices[1].log.logprobs = {-1.1F, -2.3F};
  answer.choices[1].log.top_logprobs = {{{.token_id = 8, .logprob = -1.1F}}, {}};
  answer.choices[0].log.finish = FinishReason::kStop;
  answer.connection = 23;
  answer.sent.choices = {{.n_tokens = 4, .finished = true}, {.n_tokens = 2, .finished = false}};
  answer.sent.n_events = 5;
  answer.kept = true;
  answer.request.prompts = {{5, 6, 7}};
  answer.request.seed = 9;
  return answer;
}

HandoverState some_state() {
  HandoverState state{.secret = "s", .environment_key = "k", .run_folder = "/tmp/f"};
  state.run_folder_lock = 20;
  state.model = "/tmp/m";
  state.served_name = "n";
  state.core.weights = {.generation = 3, .path = "/tmp/p", .fingerprint = 77};
  state.core.weights_before = {"00000000000000ab"};
  state.asker = 21;
  state.api.listener = 22;
  state.api.connections = {{.fd = 23,
                            .phase = ConnectionState::Phase::kAnswering,
                            .unread = std::string("\0\xFF", 2),
                            .unsent = "tail",
                            .streaming = true}};
  state.api.answers = {some_answer()};
  state.api.pooling = {
      {.endpoint = "/v1/embeddings", .key_name = "k", .body = "{\xFF", .connection = 23}};
  GroupState group;
  group.epoch = 3;
  group.serving = true;
  group.job = std::string("\x80\0", 2);
  group.supervisor.ranks = {{.info = {.world_rank = 0, .host = "h", .pid = 99}, .kv_blocks = 40}};
  group.supervisor.ranks[0].info.last_state.activity = RankActivity::kComputing;
  group.supervisor.losses_ms = {123456789012};
  group.listener = 24;
  group.connections = {
      {.fd = 25, .rank = 0, .unread = std::string("\x05\0", 2), .last_heartbeat = ~0ULL}};
  group.heartbeat_salt = std::string("\xFE\0", 2);
  group.processes = {.processes = {{.name = "rank 0", .pid = 99, .pidfd = 26}}, .output_fd = 27};
  group.kv_memory = {28, -1};
  state.core.replicas = {{.scheduler = {.epoch = 3, .last_step_id = 12, .n_blocks = 40},
                          .group = group,
                          .numerics_id = "numerics"}};
  state.core.replicas[0].scheduler.sequences = {some_sequence()};
  const PrefixDomain domain{.generation = 3, .cache_salt = "alice\nsalt"};
  state.core.replicas[0].scheduler.cached = {
      .prefixes = {{.block = 11, .parent = -1, .tokens = {5, 6, 7, 8}, .domain = domain},
                   {.block = 12, .parent = 11, .tokens = {9}, .domain = domain}},
      .unheld = {12}};
  state.core.last_id = 72;
  state.metrics.series = {{.name = "n", .labels = {{"l", "v"}}, .value = 0.1, .buckets = {3}}};
  state.metrics.followed = {{"comm", 0.3}};
  state.core.requests = {{.id = 71, .replica = 0, .numerics_told = true}};
  return state;
}

TEST(HandoverCodec, KeepsEverything) {
  const std::string bytes = encode_handover(some_state());
  const Result<HandoverState> decoded = decode_handover(bytes);
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(encode_handover(*decoded), bytes);
  const ConnectionState& connection = decoded->api.connections.at(0);
  EXPECT_EQ(connection.unread, std::string("\0\xFF", 2));
  EXPECT_EQ(connection.phase, ConnectionState::Phase::kAnswering);
  const Sequence& sequence = decoded->core.replicas.at(0).scheduler.sequences.at(0);
  EXPECT_EQ(sequence.log.request.sampling.temperature, 0.1F);
  EXPECT_EQ(sequence.log.request.sampling.seed, 0xFFFFFFFFFFFFFFFFU);
  EXPECT_EQ(sequence.log.request.grammar, (Grammar{"regex", "é+"}));
  EXPECT_EQ(sequence.kv.blocks, (std::vector<int32_t>{11, 4}));
  EXPECT_EQ(sequence.kv.slot, -1);
  EXPECT_EQ(sequence.log.request.cache_salt, "alice\nsalt");
  EXPECT_TRUE(sequence.log.request.want_embedding);
  const PoolingState& pooling = decoded->api.pooling.at(0);
  EXPECT_EQ(pooling.endpoint, "/v1/embeddings");
  EXPECT_EQ(pooling.key_name, "k");
  EXPECT_EQ(pooling.body, "{\xFF");
  EXPECT_EQ(pooling.connection, 23);
  EXPECT_EQ(sequence.log.request.tenant, "alice");
  EXPECT_EQ(sequence.log.n_cached_prompt, 2);
  const CachedBlocks& cached = decoded->core.replicas.at(0).scheduler.cached;
  EXPECT_EQ(cached.prefixes.at(1).parent, 11);
  EXPECT_EQ(cached.prefixes.at(0).tokens.at(3), 8);
  EXPECT_EQ(cached.prefixes.at(0).domain.cache_salt, "alice\nsalt");
  EXPECT_TRUE(sequence.resumes);
  EXPECT_TRUE(sequence.suspect);
  EXPECT_EQ(sequence.log.request.priority, -3);
  ASSERT_NE(sequence.log.request.rules, nullptr);
  EXPECT_EQ(sequence.log.request.rules->presence_penalty, 0.5F);
  EXPECT_EQ(sequence.log.request.rules->biases.at(0).bias, 1.5F);
  EXPECT_EQ(sequence.log.request.rules->bad_words, (std::vector<std::vector<int32_t>>{{1, 2}}));
  EXPECT_EQ(sequence.log.prompt_top_logprobs.at(0).at(0).token_id, 6);
  EXPECT_EQ(decoded->api.answers.at(0).call.rules, nullptr);
  const AnswerState& answer = decoded->api.answers.at(0);
  EXPECT_EQ(answer.call.prompts.at(0).text, "a\nb");
  EXPECT_EQ(answer.call.response_fields, R"({"user":null})");
  EXPECT_EQ(answer.sent.n_events, 5);
  EXPECT_EQ(answer.call.tenant, "alice");
  EXPECT_EQ(answer.call.grammar.text, "start: \"a\"");
  EXPECT_EQ(answer.call.message.tools, ToolFormat::kMistral);
  EXPECT_TRUE(answer.call.message.reasoning);
  EXPECT_EQ(answer.call.tensors.id, "x");
  EXPECT_EQ(answer.call.tensors.outputs.at(0).output, TensorReply::Output::kIds);
  EXPECT_TRUE(answer.call.tensors.outputs.at(0).binary);
  EXPECT_TRUE(answer.call.tensors.column);
  EXPECT_EQ(answer.choices.at(1).log.logprobs, (std::vector<float>{-1.1F, -2.3F}));
  EXPECT_EQ(answer.choices.at(0).log.finish, FinishReason::kStop);
  EXPECT_EQ(answer.sent.text(), "4e.2");
  const GroupState& group = decoded->core.replicas.at(0).group;
  EXPECT_EQ(group.supervisor.ranks.at(0).info.last_state.activity, RankActivity::kComputing);
  EXPECT_EQ(group.connections.at(0).last_heartbeat, ~0ULL);
  EXPECT_EQ(group.heartbeat_salt, std::string("\xFE\0", 2));
  EXPECT_EQ(decoded->metrics.series.at(0).buckets, std::vector<double>{3});
  EXPECT_EQ(decoded->metrics.followed.at("comm"), 0.3);
}

TEST(HandoverMetrics, GoOnFromWhatTheyHadComeTo) {
  const MetricsOptions options{.model_name = "m", .version = "v"};
  Metrics before(options);
  ServingObserver observer = before.observer();
  for (int i = 0; i < 5; ++i) observer.on_inter_token(0.01 * i);
  observer.on_finished(1.5, 7, 3, FinishReason::kLength);
  observer.on_step(StepPhase::kPrefill, 0.2);
  observer.on_step(StepPhase::kDecode, 0.02);
  observer.on_group_lost("socket");
  before.count_http_response("/v1/models", 200);
  before.set_comm(4.5);
  Metrics after(options);
  after.go_on_from(before.state());
  EXPECT_EQ(after.serialize(), before.serialize());
  for (Metrics* each : {&before, &after}) {
    each->set_comm(5);
    each->observer().on_inter_token(0.3);
    each->observer().on_group_lost("heartbeat");
  }
  EXPECT_EQ(after.serialize(), before.serialize());
}

TEST(HandoverCodec, NamesEveryDescriptor) {
  EXPECT_EQ(descriptors(some_state()), (std::vector<int>{20, 21, 22, 23, 24, 27, 28, 25, 26}));
}

TEST(HandoverCodec, RefusesOtherVersionsAndWhatIsMalformed) {
  const std::string bytes = encode_handover(some_state());
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(decode_handover(bytes.substr(0, size))) << size;
  EXPECT_FALSE(decode_handover(bytes + "x"));
  std::string other = bytes;
  other.at(bytes.find('\n') - 1) += 1;
  EXPECT_FALSE(decode_handover(other));
  // Another type than the one expected, and a member that is missing.
  const std::string head = bytes.substr(0, bytes.find('\n') + 1);
  EXPECT_FALSE(decode_handover(head + std::string("\xA0", 1)));
  EXPECT_FALSE(decode_handover(head + std::string("\x01", 1)));
}

SchedulerConfig config() {
  SchedulerConfig config;
  config.max_slots = 2;
  config.max_batch_tokens = 64;
  config.max_prefill_tokens = 64;
  config.n_plans_ahead = 1;
  config.context_length = 64;
  config.vocab_size = 100;
  return config;
}

GenerateRequest request(int32_t n_prompt, int32_t token) {
  GenerateRequest request;
  request.prompt_ids.assign(static_cast<size_t>(n_prompt), token);
  request.max_new_tokens = 8;
  return request;
}

// Answers a plan: every sequence that draws gets `token`.
void answer(Scheduler& scheduler, const StepPlan& plan, int32_t token,
            std::vector<SequenceEvent>& events) {
  StepResult result;
  result.epoch = plan.epoch;
  result.step_id = plan.step_id;
  for (const SequencePlan& part : plan.sequences) {
    SequenceResult& one = result.sequences.emplace_back();
    one.request_id = part.request_id;
    one.slot = part.slot;
    if (part.sample) one.drawn = {{.token_id = token}};
  }
  scheduler.apply(std::move(result), events);
}

TEST(SchedulerHandover, GoesOnWithoutComputingAnythingAgain) {
  std::vector<SequenceEvent> events;
  Scheduler old(config());
  old.group_up(5, 20, false, events);
  for (int32_t id = 1; id <= 3; ++id)
    old.add(make_sequence(static_cast<RequestId>(id), request(20, id)), events);
  std::optional<StepPlan> plan = old.plan_step();
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->sequences.size(), 2U) << "the third waits for a slot";
  answer(old, *plan, 42, events);
  old.rest();
  const SchedulerState state = old.state();
  EXPECT_EQ(state.epoch, 5U);
  EXPECT_EQ(state.last_step_id, 1U);
  EXPECT_EQ(old.n_waiting(), 3);

  Scheduler next(config());
  next.restore(SchedulerState(state));
  EXPECT_EQ(next.n_unheld_blocks(), old.n_unheld_blocks());
  for (Scheduler* scheduler : {&old, &next}) {
    if (scheduler == &next) next.group_up(5, 20, true, events);
    plan = scheduler->plan_step();
    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->epoch, 5U);
    EXPECT_EQ(plan->step_id, 2U);
    ASSERT_EQ(plan->sequences.size(), 2U);
    for (const SequencePlan& part : plan->sequences) {
      EXPECT_TRUE(part.reset_slot);
      EXPECT_EQ(part.start_position, 20);
      EXPECT_EQ(part.input_ids, std::vector<int32_t>{42});
      EXPECT_EQ(part.output_index, 1);
      EXPECT_EQ(part.new_blocks.size(), 2U) << "all of its blocks: the slot is new";
    }
  }
  EXPECT_EQ(next.n_preemptions(), 0U);
}

}  // namespace
}  // namespace trireme
