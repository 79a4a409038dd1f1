#include <fmt/format.h>

#include <charconv>
#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "coordinator/cli/commands.h"
#include "coordinator/cli/say.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/trace_compare.h"
#include "kernels/result.h"
#include "model/trace.h"
#include "model/weight_format.h"

namespace trireme {
namespace {

constexpr int32_t kDefaultPromptLength = 48;

int32_t parse_int(std::string_view text, const char* what) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw EnvironmentError(fmt::format("'{}' is no {}", text, what));
  }
  return value;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (;;) {
    const size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end == std::string::npos ? end : end - begin));
    if (end == std::string::npos) return parts;
    begin = end + 1;
  }
}

std::vector<int32_t> prompt_ids(const std::string& text, int32_t vocab_size) {
  std::vector<int32_t> ids;
  if (text.empty()) {  // any prompt will do, so long as it is always the same
    for (int32_t i = 0; i < kDefaultPromptLength; ++i) ids.push_back((i * 7919 + 11) % vocab_size);
    return ids;
  }
  for (const std::string& part : split(text, ',')) ids.push_back(parse_int(part, "token id"));
  return ids;
}

struct Trace {
  std::vector<StepResult> results;
  std::vector<int32_t> tokens;
};

Trace run_side(const DiffOptions& options, const DiffSide& side) {
  if (!side.kernels.empty()) setenv("TRIREME_KERNELS", side.kernels.c_str(), 1);
  ClusterOptions cluster;
  cluster.model = options.model;
  cluster.layout = side.layout;
  cluster.format = side.format;
  cluster.launcher = options.launcher;
  cluster.max_sequences = 1;
  Session session(cluster, {});
  session.start();
  session.wait_serving();

  std::mutex mutex;
  std::condition_variable changed;
  bool finished = false;
  std::string error;
  Trace trace;
  GenerateRequest request;
  request.prompt_ids = prompt_ids(options.prompt_ids, session.config().vocab_size);
  request.max_new_tokens = options.max_new;
  request.ignore_eos = true;
  request.trace = true;
  const auto id = session.core().submit(std::move(request), [&](GenerateEvent&& event) {
    const std::lock_guard lock(mutex);
    std::move(event.traces.begin(), event.traces.end(), std::back_inserter(trace.results));
    trace.tokens.insert(trace.tokens.end(), event.token_ids.begin(), event.token_ids.end());
    if (event.finish == FinishReason::kNone) return;
    error = event.error;
    finished = true;
    changed.notify_all();
  });
  if (!id) throw EnvironmentError(id.error().message);
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return finished; });
  }
  session.stop();
  if (!side.kernels.empty()) unsetenv("TRIREME_KERNELS");
  if (!error.empty()) throw EnvironmentError(error);
  return trace;
}

}  // namespace

DiffSide parse_diff_side(const std::string& text) {
  const std::vector<std::string> parts = split(text, ':');
  const std::vector<std::string> sizes = split(parts[0], 'x');
  if (sizes.size() != 2 || parts.size() > 3) {
    throw EnvironmentError("'" + text + "' is no layout: use TPxPP, for example 2x3");
  }
  DiffSide side;
  side.layout = {parse_int(sizes[0], "number of shards"), parse_int(sizes[1], "number of stages")};
  if (parts.size() > 1) {
    side.format = parse_weight_format("weight type", parts[1]);
  }
  if (parts.size() > 2) side.kernels = parts[2];
  return side;
}

int diff_command(const DiffOptions& options) {
  const DiffSide side_a = parse_diff_side(options.a);
  const DiffSide side_b = parse_diff_side(options.b);
  const Trace a = run_side(options, side_a);
  const Trace b = run_side(options, side_b);
  const auto difference = compare_traces(a.results, b.results);
  if (!difference && a.tokens == b.tokens) {
    size_t n = 0;
    for (const StepResult& r : b.results) n += r.trace.size();
    say(stdout, "no difference: {} and {} agree in every bit ({} hashes of {} steps compared)\n",
        options.a, options.b, n, b.results.size() / static_cast<size_t>(side_b.layout.n_ranks()));
    return 0;
  }
  if (!difference) {
    say(stdout, "the sampled tokens differ, and no operator does: look at the sampler\n");
    return 1;
  }
  const std::string& side = difference->side == 'a' ? options.a : options.b;
  say(stdout, "first difference: step {}, layer {}, operator {}, unit {}, rank {} of {}\n",
      difference->step_id, difference->layer, trace_op_name(difference->op), difference->unit,
      difference->world_rank, side);
  return 1;
}

}  // namespace trireme
