#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/serving/scheduler.h"
#include "tests/layouts/thread_group.h"

namespace trireme::test {

// One rank, both ways of cutting in two, and both at once.
inline constexpr Layout kSmallLayouts[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}};

// "tp 2 pp 1"
std::string name_of(Layout layout);

// Everything a request was answered with.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<float> prompt_logprobs;
  std::vector<float> prompt_tops;  // id and log p of each, one after the other
  std::vector<float> last_logits;
  std::vector<float> embedding;
  FinishReason finish = FinishReason::kNone;
  bool operator==(const Answer&) const = default;
};
using Answers = std::map<RequestId, Answer>;  // by the order of requests, from 1

// What the grammar of a request lets follow its output: a third of the vocabulary.
bool is_allowed(const std::vector<int32_t>& output_ids, int32_t id);

// Of the real scheduler on a group of threads.
SchedulerConfig scheduler_config(const PackedModel& file, Layout layout,
                                 const ThreadGroup::Limits& limits);

// Requests through that scheduler.
struct ScheduledRun {
  std::shared_ptr<const PackedModel> file;
  Layout layout;
  ThreadGroup::Limits limits;
  TestPerturbation perturbation;
  bool prefix_cache = true;
  int n_results_between = 0;  // so many results come before the next request does
  DrafterMaker make_drafter = {};
  int32_t max_guesses = 0;

  PrefixCacheCounts counts = {};  // of the run
  GuessCounts guesses = {};       // of the run

  Answers answer(std::vector<GenerateRequest> requests);
};

void expect_same(const Answers& expected, const Answers& got, const std::string& where);

}  // namespace trireme::test
