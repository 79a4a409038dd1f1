#include "tests/layouts/scheduled_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace trireme::test {

std::string name_of(Layout layout) {
  return "tp " + std::to_string(layout.tp) + " pp " + std::to_string(layout.pp);
}

bool is_allowed(const std::vector<int32_t>& output_ids, int32_t id) {
  uint32_t hash = 7;
  for (const int32_t token : output_ids) hash = hash * 31 + static_cast<uint32_t>(token);
  return (hash + static_cast<uint32_t>(id)) % 3 == 0;
}

namespace {

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

// True: it was its last.
bool take_event(Answer& answer, const GenerateEvent& event) {
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  append(answer.tokens, event.token_ids);
  append(answer.logprobs, event.logprobs);
  append(answer.prompt_logprobs, event.prompt_logprobs);
  for (const auto& row : event.prompt_top_logprobs) {
    for (const TokenLogprob& top : row)
      append(answer.prompt_tops, std::vector{static_cast<float>(top.token_id), top.logprob});
  }
  append(answer.last_logits, event.last_logits);
  append(answer.embedding, event.embedding);
  answer.finish = event.finish;
  return event.finish != FinishReason::kNone;
}

}  // namespace

SchedulerConfig scheduler_config(const PackedModel& file, Layout layout,
                                 const ThreadGroup::Limits& limits) {
  SchedulerConfig config;
  config.max_slots = limits.max_slots;
  config.max_batch_tokens = limits.max_batch_tokens;
  config.max_prefill_tokens = limits.max_batch_tokens;
  config.n_stages = layout.pp;
  config.n_plans_ahead = 1;
  config.n_ranks = layout.n_ranks();
  config.context_length = limits.context_length;
  config.vocab_size = file.config().vocab_size;
  return config;
}

Answers ScheduledRun::answer(std::vector<GenerateRequest> requests) {
  ThreadGroup group(file, layout, limits);
  SchedulerConfig config = scheduler_config(*file, layout, limits);
  config.prefix_cache = prefix_cache;
  config.perturbation = perturbation;
  config.make_drafter = make_drafter;
  config.max_guesses = max_guesses;
  Scheduler scheduler(config);
  std::vector<SequenceEvent> events;
  scheduler.group_up(1, limits.kv_blocks, false, events);
  Answers answers;
  size_t n_added = 0;
  size_t n_finished = 0;
  for (int n_results = 0; n_finished < requests.size(); ++n_results) {
    const auto n_come = n_results_between == 0
                            ? requests.size()
                            : static_cast<size_t>(n_results / n_results_between + 1);
    const bool idle = scheduler.n_running() + scheduler.n_waiting() == 0;
    for (; n_added < std::min(requests.size(), std::max(n_come, n_added + (idle ? 1 : 0)));) {
      GenerateRequest request = std::move(requests[n_added]);
      scheduler.add(make_sequence(++n_added, std::move(request)), events);
    }
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
    for (const SequenceEvent& e : events) n_finished += take_event(answers[e.id], e.event) ? 1 : 0;
    events.clear();
  }
  counts = scheduler.prefix_cache_counts();
  guesses = scheduler.guess_counts();
  return answers;
}

void expect_same(const Answers& expected, const Answers& got, const std::string& where) {
  ASSERT_EQ(expected.size(), got.size());
  for (const auto& [id, answer] : expected) {
    const Answer& other = got.at(id);
    EXPECT_EQ(answer.tokens, other.tokens) << where << ", request " << id;
    EXPECT_EQ(answer.last_logits, other.last_logits) << where << ", request " << id;
    EXPECT_EQ(answer.prompt_logprobs, other.prompt_logprobs) << where << ", request " << id;
    EXPECT_EQ(answer, other) << where << ", request " << id;
  }
}

}  // namespace trireme::test
