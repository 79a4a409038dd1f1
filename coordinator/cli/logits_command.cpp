#include <fmt/format.h>

#include <condition_variable>
#include <deque>
#include <iostream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>

#include "coordinator/cli/commands.h"
#include "coordinator/cli/session.h"
#include "kernels/result.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

// One input line on its way through the ranks.
struct Line {
  int64_t number = 0;
  std::vector<float> last_logits;
  std::vector<float> logprobs;
  std::vector<int32_t> greedy;
  std::string error;
  bool finished = false;
};

std::string bad_line(int64_t number, const std::string& why) {
  return fmt::format("standard input, line {}: {}; each line is {{\"input_ids\":[1,2,3]}}", number,
                     why);
}

std::vector<int32_t> parse_ids(const std::string& text, int64_t number, int32_t vocab_size) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) throw EnvironmentError(bad_line(number, "this is not JSON"));
  if (!json.is_object() || !json.contains("input_ids") || !json["input_ids"].is_array() ||
      json["input_ids"].empty()) {
    throw EnvironmentError(bad_line(number, "there is no list \"input_ids\" with ids in it"));
  }
  std::vector<int32_t> ids;
  for (const Json& id : json["input_ids"]) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size) {
      throw EnvironmentError(bad_line(
          number, fmt::format("{} is no token id from 0 to {}", id.dump(), vocab_size - 1)));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void append_floats(std::string& out, const std::vector<float>& values) {
  auto to = std::back_inserter(out);
  for (size_t i = 0; i < values.size(); ++i) {
    fmt::format_to(to, "{}{:.9g}", i == 0 ? "" : ",", values[i]);
  }
}

std::string format_line(const Line& line) {
  std::string out = "{\"last_logits\":[";
  append_floats(out, line.last_logits);
  out += "],\"logprobs\":[";
  append_floats(out, line.logprobs);
  out += "],\"greedy\":[";
  for (size_t i = 0; i < line.greedy.size(); ++i) {
    fmt::format_to(std::back_inserter(out), "{}{}", i == 0 ? "" : ",", line.greedy[i]);
  }
  return out + "]}\n";
}

// Keeps so many lines in flight that the ranks are busy, and prints them in order.
class LogitsRun {
 public:
  LogitsRun(Session& session, int32_t max_new) : session_(session), max_new_(max_new) {}

  void submit(const std::string& text, int64_t number) {
    GenerateRequest request;
    request.prompt_ids = parse_ids(text, number, session_.config().vocab_size);
    request.max_new_tokens = max_new_;
    request.ignore_eos = true;
    request.want_last_logits = true;
    request.want_prompt_logprobs = true;
    const auto line = std::make_shared<Line>();
    line->number = number;
    const auto id = session_.core().submit(
        std::move(request), [this, line](GenerateEvent&& event) { on_event(*line, event); });
    if (!id) throw EnvironmentError(fmt::format("line {}: {}", number, id.error().message));
    lines_.push_back(line);
    while (lines_.size() > 2 * static_cast<size_t>(session_.options().max_sequences)) print_first();
  }

  void finish() {
    while (!lines_.empty()) print_first();
  }

 private:
  void on_event(Line& line, GenerateEvent& event) {
    const std::lock_guard lock(mutex_);
    const auto append = [](auto& to, const auto& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(line.last_logits, event.last_logits);
    append(line.logprobs, event.prompt_logprobs);
    append(line.greedy, event.token_ids);
    if (event.finish == FinishReason::kNone) return;
    line.error = event.error;
    line.finished = true;
    changed_.notify_all();
  }

  // The service ends every request, so this ends.
  void print_first() {
    const std::shared_ptr<Line> line = lines_.front();
    lines_.pop_front();
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return line->finished; });
    }
    if (!line->error.empty()) {
      throw EnvironmentError(fmt::format("line {}: {}", line->number, line->error));
    }
    const std::string text = format_line(*line);
    std::fwrite(text.data(), 1, text.size(), stdout);
  }

  Session& session_;
  int32_t max_new_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Line>> lines_;
};

}  // namespace

int logits_command(const LogitsOptions& options) {
  if (options.max_new < 0) throw EnvironmentError("--max-new must not be negative");
  Session session(options.cluster, {});
  session.start();
  session.wait_serving();
  LogitsRun run(session, options.max_new);
  std::string text;
  int64_t number = 0;
  try {
    while (std::getline(std::cin, text)) {
      ++number;
      if (!text.empty()) run.submit(text, number);
    }
    run.finish();
  } catch (...) {
    session.stop();  // before `run`, which events still point to
    throw;
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace trireme
