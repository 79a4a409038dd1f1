// The promise everything else stands on: the same tokens and the same logits, bit for bit, on every
// layout, in every batch, however prompts are cut and sequences preempted.

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "coordinator/serving/scheduler.h"
#include "model/weight_format.h"
#include "tests/layouts/thread_group.h"

namespace trireme::test {
namespace {

// Everything a request was answered with.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<float> prompt_logprobs;
  std::vector<float> last_logits;
  FinishReason finish = FinishReason::kNone;
  bool operator==(const Answer&) const = default;
};

std::vector<GenerateRequest> make_requests(int32_t vocab_size) {
  std::mt19937 random(11);
  std::vector<GenerateRequest> requests;
  for (const int32_t n_prompt : {1, 5, 37, 90, 130, 16, 64}) {
    GenerateRequest r;
    for (int32_t i = 0; i < n_prompt; ++i) {
      r.prompt_ids.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
    }
    const bool greedy = requests.size() % 2 == 0;
    r.sampling = {.temperature = greedy ? 0.0F : 0.9F,
                  .top_p = requests.size() % 3 == 0 ? 1.0F : 0.95F,
                  .top_k = requests.size() == 5 ? 20 : 0,
                  .seed = 1000 + requests.size()};
    r.max_new_tokens = 12;
    r.ignore_eos = true;
    r.want_prompt_logprobs = true;
    r.want_last_logits = true;
    if (requests.size() % 4 > 1) r.grammar = {.tag = "test", .text = "any"};
    requests.push_back(r);
  }
  return requests;
}

// A third of the vocabulary, by the tokens so far.
bool is_allowed(const std::vector<int32_t>& output_ids, int32_t id) {
  uint32_t hash = 7;
  for (const int32_t token : output_ids) hash = hash * 31 + static_cast<uint32_t>(token);
  return (hash + static_cast<uint32_t>(id)) % 3 == 0;
}

TokenMask mask_of(const StepPlan& plan, const SequencePlan& part, const TokenLog& log,
                  int32_t vocab_size) {
  TokenMask mask{.epoch = plan.epoch,
                 .step_id = plan.step_id,
                 .request_id = part.request_id,
                 .words = std::vector<uint32_t>((static_cast<size_t>(vocab_size) + 31) / 32)};
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (is_allowed(log.output_ids, id)) mask.words[static_cast<size_t>(id) / 32] |= 1U << (id % 32);
  }
  return mask;
}

// Runs the requests through the real scheduler on a group of threads.
std::map<RequestId, Answer> run(const std::shared_ptr<const PackedModel>& file, Layout layout,
                                const ThreadGroup::Limits& limits, TestPerturbation perturbation) {
  ThreadGroup group(file, layout, limits);
  Scheduler scheduler({.max_slots = limits.max_slots,
                       .max_batch_tokens = limits.max_batch_tokens,
                       .max_prefill_tokens = limits.max_batch_tokens,
                       .n_stages = layout.pp,
                       .n_plans_ahead = 1,
                       .n_ranks = layout.n_ranks(),
                       .context_length = limits.context_length,
                       .vocab_size = file->config().vocab_size,
                       .eos_token_ids = {},
                       .perturbation = perturbation});
  std::vector<SequenceEvent> events;
  scheduler.group_up(1, limits.kv_blocks, false, events);
  RequestId id = 0;
  for (GenerateRequest& request : make_requests(file->config().vocab_size)) {
    scheduler.add(make_sequence(++id, std::move(request)), events);
  }
  std::map<RequestId, Answer> answers;
  size_t n_finished = 0;
  while (n_finished < id) {
    while (auto plan = scheduler.plan_step()) {
      group.send(*plan);
      for (const SequencePlan& part : plan->sequences) {
        if (!part.masked) continue;
        group.send_mask(
            mask_of(*plan, part, scheduler.log(part.request_id), file->config().vocab_size));
      }
    }
    TRIREME_CHECK(scheduler.n_plans_in_flight() > 0);
    scheduler.apply(group.receive(), events);
    for (SequenceEvent& e : events) {
      Answer& a = answers[e.id];
      const auto append = [](auto& to, const auto& from) {
        to.insert(to.end(), from.begin(), from.end());
      };
      append(a.tokens, e.event.token_ids);
      append(a.logprobs, e.event.logprobs);
      append(a.prompt_logprobs, e.event.prompt_logprobs);
      append(a.last_logits, e.event.last_logits);
      if (e.event.finish != FinishReason::kNone) {
        a.finish = e.event.finish;
        ++n_finished;
      }
    }
    events.clear();
  }
  return answers;
}

void expect_same(const std::map<RequestId, Answer>& expected,
                 const std::map<RequestId, Answer>& got, const std::string& where) {
  ASSERT_EQ(expected.size(), got.size());
  for (const auto& [id, answer] : expected) {
    const Answer& other = got.at(id);
    EXPECT_EQ(answer.tokens, other.tokens) << where << ", request " << id;
    EXPECT_EQ(answer.last_logits, other.last_logits) << where << ", request " << id;
    EXPECT_EQ(answer.prompt_logprobs, other.prompt_logprobs) << where << ", request " << id;
    EXPECT_EQ(answer, other) << where << ", request " << id;
  }
}

struct Case {
  const char* model;
  WeightFormat format;
  std::optional<DType> kv_dtype = std::nullopt;
};

class LayoutIdentityTest : public testing::TestWithParam<Case> {
 protected:
  LayoutIdentityTest()
      : packed_(std::string(TRIREME_SOURCE_DIR "/tests/golden/") + GetParam().model,
                GetParam().format) {}
  TemporaryPackedModel packed_;
};

TEST_P(LayoutIdentityTest, EveryLayoutChunkingBatchAndPreemption) {
  const auto& file = packed_.file();
  const ThreadGroup::Limits roomy{.kv_dtype = GetParam().kv_dtype};
  const auto reference = run(file, {1, 1}, roomy, {});
  for (const auto& [id, answer] : reference) {
    ASSERT_EQ(answer.finish, FinishReason::kLength);
    ASSERT_EQ(answer.tokens.size(), 12U);
    ASSERT_EQ(answer.last_logits.size(), static_cast<size_t>(file->config().vocab_size));
  }
  int n_masked = 0;
  const auto requests = make_requests(file->config().vocab_size);
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::vector<int32_t>& tokens = reference.at(i + 1).tokens;
    for (size_t k = 0; k < tokens.size() && !requests[i].grammar.empty(); ++k, ++n_masked) {
      EXPECT_TRUE(is_allowed({tokens.begin(), tokens.begin() + static_cast<long>(k)}, tokens[k]));
    }
  }
  EXPECT_GT(n_masked, 30);
  ThreadGroup::Limits unfused = roomy;
  unfused.fuse = false;
  expect_same(reference, run(file, {1, 1}, unfused, {}), "unfused");
  const int32_t max_tp = model_cuts(file->config()).max_tp();
  uint64_t seed = 1;
  for (const int tp : {1, 2, 3, 4}) {
    for (const int pp : {1, 2, 3}) {
      if (tp > max_tp || pp > file->config().n_layers) continue;
      ThreadGroup::Limits tight = roomy;
      tight.kv_blocks = 20;  // one long request and little else: real preemption
      tight.n_threads = 1 + (tp + pp) % 2;
      const std::string where = "tp " + std::to_string(tp) + " pp " + std::to_string(pp);
      expect_same(reference, run(file, {tp, pp}, roomy, {}), where);
      expect_same(reference,
                  run(file, {tp, pp}, tight,
                      {.seed = ++seed,
                       .random_chunks = true,
                       .shuffle_batch = true,
                       .preempt_probability = 0.05}),
                  where + " perturbed");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, LayoutIdentityTest,
    testing::Values(Case{"llama", WeightFormat::kBF16}, Case{"llama", WeightFormat::kF32},
                    Case{"mistral-window", WeightFormat::kBF16}, Case{"qwen2", WeightFormat::kBF16},
                    Case{"qwen3", WeightFormat::kF32}, Case{"qwen2", WeightFormat::kF16},
                    Case{"llama", WeightFormat::kI8}, Case{"qwen3", WeightFormat::kI4},
                    Case{"mistral-window", WeightFormat::kI8, DType::kI8},
                    Case{"llama-biases", WeightFormat::kBF16, DType::kI8},
                    Case{"mistral-window", WeightFormat::kF32, DType::kI8}),
    [](const testing::TestParamInfo<Case>& param) {
      std::string name = param.param.model;
      for (char& c : name) c = c == '-' ? '_' : c;
      name += std::string("_") + weight_format_name(param.param.format);
      return param.param.kv_dtype ? name + "_kv_" + dtype_name(*param.param.kv_dtype) : name;
    });

}  // namespace
}  // namespace trireme::test
