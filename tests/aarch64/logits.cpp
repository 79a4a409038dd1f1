// `trireme logits` without a coordinator: the same arguments, input and output, every rank a
// thread. For check_golden.py where only the ranks' half of the program can be built.

#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/int_math.h"
#include "model/rope_frequencies.h"
#include "tests/layouts/thread_group.h"

namespace trireme::test {
namespace {

constexpr int32_t kMaxBatchTokens = 256;
constexpr int32_t kLongestContext = 8192;

struct Answer {
  std::vector<float> last_logits;
  std::vector<float> logprobs;
  std::vector<int32_t> greedy;
};

// Steps one sequence in slot 0 of a group.
class Sequence {
 public:
  Sequence(ThreadGroup& group, std::vector<int32_t> ids, uint64_t& step_id)
      : group_(group), ids_(std::move(ids)), step_id_(step_id) {}

  Answer run(int32_t n_new) {
    Answer answer;
    const auto n_prompt = static_cast<int32_t>(ids_.size());
    while (n_done_ < n_prompt) {
      const int32_t n = std::min(kMaxBatchTokens, n_prompt - n_done_);
      const SequenceResult result = step(n, n_done_ + n == n_prompt);
      answer.logprobs.insert(answer.logprobs.end(), result.target_logprobs.begin(),
                             result.target_logprobs.end());
      answer.last_logits = result.logits;
      if (n_done_ == n_prompt) ids_.push_back(result.drawn.at(0).token_id);
    }
    answer.logprobs.pop_back();  // after the last prompt token nothing is given
    while (static_cast<int32_t>(ids_.size()) < n_prompt + n_new) {
      ids_.push_back(step(1, true).drawn.at(0).token_id);
    }
    answer.greedy.assign(ids_.begin() + n_prompt, ids_.begin() + n_prompt + n_new);
    return answer;
  }

 private:
  SequenceResult step(int32_t n, bool sample) {
    StepPlan plan{.step_id = ++step_id_};
    SequencePlan& s = plan.sequences.emplace_back();
    s.request_id = step_id_;
    s.reset_slot = n_done_ == 0;
    s.start_position = n_done_;
    s.input_ids.assign(ids_.begin() + n_done_, ids_.begin() + n_done_ + n);
    for (; n_blocks_ < div_ceil(n_done_ + n, kBlockSize); ++n_blocks_) {
      s.new_blocks.push_back(n_blocks_);
    }
    s.sample = s.want_logits = sample;
    for (int32_t i = n_done_ + 1; i <= n_done_ + n; ++i) {
      s.logprob_targets.push_back(
          i < static_cast<int32_t>(ids_.size()) ? ids_[static_cast<size_t>(i)] : -1);
    }
    n_done_ += n;
    return group_.step(plan).sequences.at(0);
  }

  ThreadGroup& group_;
  std::vector<int32_t> ids_;
  uint64_t& step_id_;
  int32_t n_done_ = 0;
  int32_t n_blocks_ = 0;
};

void print_answer(const Answer& answer) {
  std::string out = "{\"last_logits\":[";
  const auto append = [&](const std::vector<float>& values) {
    for (size_t i = 0; i < values.size(); ++i) {
      fmt::format_to(std::back_inserter(out), "{}{:.9g}", i == 0 ? "" : ",", values[i]);
    }
  };
  append(answer.last_logits);
  out += "],\"logprobs\":[";
  append(answer.logprobs);
  out += "],\"greedy\":" + nlohmann::json(answer.greedy).dump() + "}";
  std::puts(out.c_str());
}

// usage: logits logits MODEL --dtype D --tp N --pp N --max-new N
int run(int argc, char** argv) {
  TRIREME_CHECK(argc >= 3);
  std::map<std::string, std::string> options;
  for (int i = 3; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  const WeightFormat format =
      options.at("--dtype") == "float32" ? WeightFormat::kF32 : WeightFormat::kBF16;
  const TemporaryPackedModel model(argv[2], format);
  const int32_t context = std::min(kLongestContext, default_context_length(model.file()->config()));
  ThreadGroup group(model.file(),
                    {.tp = std::stoi(options.at("--tp")), .pp = std::stoi(options.at("--pp"))},
                    {.context_length = context,
                     .max_slots = 1,
                     .max_batch_tokens = kMaxBatchTokens,
                     .kv_blocks = div_ceil(context, kBlockSize),
                     .n_threads = 2});
  uint64_t step_id = 0;
  for (std::string line; std::getline(std::cin, line);) {
    const auto ids = nlohmann::json::parse(line).at("input_ids").get<std::vector<int32_t>>();
    print_answer(Sequence(group, ids, step_id).run(std::stoi(options.at("--max-new"))));
  }
  return 0;
}

}  // namespace
}  // namespace trireme::test

int main(int argc, char** argv) { return trireme::test::run(argc, argv); }
