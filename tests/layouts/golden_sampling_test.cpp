// Continuations under logit rules, and beam searches, against what transformers computes for the
// same weights (scripts/golden/generate_sampling.py).

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "coordinator/http/beam_search.h"
#include "coordinator/serving/scheduler.h"
#include "tests/layouts/scheduled_run.h"

namespace trireme::test {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

Json golden() {
  std::ifstream file(TRIREME_SOURCE_DIR "/tests/data/sampling/continuations.json");
  return Json::parse(file);
}

std::shared_ptr<const LogitRules> rules_of(const Json& json) {
  LogitRules rules;
  rules.presence_penalty = json.value("presence_penalty", 0.0F);
  rules.frequency_penalty = json.value("frequency_penalty", 0.0F);
  rules.repetition_penalty = json.value("repetition_penalty", 1.0F);
  rules.min_tokens = json.value("min_tokens", 0);
  rules.end_token_ids = json.value("end_token_ids", Ids());
  for (const Json& row : json.value("biases", Json::array()))
    rules.biases.push_back({.token_id = row[0], .bias = row[1]});
  rules.allowed_token_ids = json.value("allowed_token_ids", Ids());
  rules.bad_words = json.value("bad_words", std::vector<Ids>());
  return std::make_shared<LogitRules>(std::move(rules));
}

// The real scheduler on one group of threads.
class Service {
 public:
  Service(const std::shared_ptr<const PackedModel>& file, Layout layout)
      : group_(file, layout, limits_), scheduler_(scheduler_config(*file, layout, limits_)) {
    std::vector<SequenceEvent> events;
    scheduler_.group_up(1, limits_.kv_blocks, false, events);
  }

  // All events of the requests, in the requests' order.
  std::vector<std::vector<GenerateEvent>> run(const std::vector<GenerateRequest>& requests) {
    const RequestId first = last_id_ + 1;
    std::vector<SequenceEvent> events;
    for (const GenerateRequest& request : requests)
      scheduler_.add(make_sequence(++last_id_, request), events);
    std::vector<std::vector<GenerateEvent>> heard(requests.size());
    size_t n_finished = 0;
    while (n_finished < requests.size()) {
      while (auto plan = scheduler_.plan_step()) group_.send(*plan);
      scheduler_.apply(group_.receive(), events);
      for (SequenceEvent& e : events) {
        n_finished += e.event.finish != FinishReason::kNone ? 1 : 0;
        heard[e.id - first].push_back(std::move(e.event));
      }
      events.clear();
    }
    return heard;
  }

 private:
  ThreadGroup::Limits limits_;
  ThreadGroup group_;
  Scheduler scheduler_;
  RequestId last_id_ = 0;
};

class GoldenSampling : public testing::TestWithParam<Layout> {
 protected:
  TemporaryPackedModel packed_{TRIREME_SOURCE_DIR "/tests/golden/llama", WeightFormat::kF32};
  Service service_{packed_.file(), GetParam()};
};

TEST_P(GoldenSampling, GreedyContinuationsUnderRules) {
  const Json all = golden();
  std::vector<GenerateRequest> requests;
  for (const Json& row : all["continuations"]) {
    GenerateRequest& request = requests.emplace_back();
    request.prompt_ids = row["prompt_ids"].get<Ids>();
    request.max_new_tokens = static_cast<int32_t>(row["greedy"].size());
    request.rules = rules_of(row["rules"]);
  }
  const auto heard = service_.run(requests);
  for (size_t i = 0; i < heard.size(); ++i) {
    Ids got;
    for (const GenerateEvent& event : heard[i])
      got.insert(got.end(), event.token_ids.begin(), event.token_ids.end());
    EXPECT_EQ(got, all["continuations"][i]["greedy"].get<Ids>()) << i;
  }
}

TEST_P(GoldenSampling, BeamSearches) {
  const Json all = golden();
  for (const Json& row : all["searches"]) {
    const auto prompt = row["prompt_ids"].get<Ids>();
    BeamSearch search({.width = row["width"],
                       .n_prompt = static_cast<int32_t>(prompt.size()),
                       .max_new_tokens = row["max_new_tokens"],
                       .length_penalty = 1.0F,
                       .end_token_ids = {}});
    while (!search.done()) {
      std::vector<GenerateRequest> requests;
      for (const BeamSearch::Beam& beam : search.live()) {
        GenerateRequest& request = requests.emplace_back();
        request.prompt_ids = prompt;
        request.output_ids = beam.token_ids;
        request.max_new_tokens = static_cast<int32_t>(beam.token_ids.size()) + 1;
        request.n_logprobs = search.n_candidates();
      }
      std::vector<std::vector<TokenLogprob>> next;
      for (const auto& events : service_.run(requests))
        next.push_back(events.back().top_logprobs.front());
      search.advance(next);
    }
    const std::vector<BeamSearch::Beam> best = search.best();
    ASSERT_EQ(best.size(), row["beams"].size());
    for (size_t i = 0; i < best.size(); ++i) {
      EXPECT_EQ(best[i].token_ids, row["beams"][i].get<Ids>()) << row["width"] << " " << i;
      if (best.size() == 1) continue;
      const double mean = best[i].sum / static_cast<double>(best[i].token_ids.size());
      EXPECT_NEAR(mean, row["scores"][i].get<double>(), 1e-3) << row["width"] << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, GoldenSampling,
                         testing::Values(Layout{1, 1}, Layout{2, 1}, Layout{2, 2}),
                         [](const testing::TestParamInfo<Layout>& param) {
                           return "tp" + std::to_string(param.param.tp) + "_pp" +
                                  std::to_string(param.param.pp);
                         });

}  // namespace
}  // namespace trireme::test
