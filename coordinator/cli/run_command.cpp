#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <iostream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>

#include "coordinator/cli/api_session.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/say.h"
#include "coordinator/serving/seed.h"
#include "kernels/result.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

struct TimedEvent {
  GenerateEvent event;
  Clock::time_point time;  // when it came, which may be long before it is read
};

// Events of one request, from the service's thread to this one. The service ends every request, so
// waiting for the next event ends.
class EventQueue {
 public:
  void push(GenerateEvent&& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back({std::move(event), Clock::now()});
    changed_.notify_one();
  }
  TimedEvent pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !events_.empty(); });
    TimedEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<TimedEvent> events_;
};

class Runner {
 public:
  Runner(Session& session, const TextCodec& codec, const RunOptions& options)
      : session_(session), codec_(codec), options_(options) {}

  // Streams the answer to standard output and returns it.
  std::string answer(std::vector<int32_t> prompt_ids) {
    GenerateRequest request;
    const auto n_prompt = static_cast<int32_t>(prompt_ids.size());
    request.prompt_ids = std::move(prompt_ids);
    request.max_new_tokens = std::min(options_.max_tokens, session_.context_length() - n_prompt);
    if (request.max_new_tokens < 1) {
      throw EnvironmentError(fmt::format(
          "the prompt has {} tokens and the context {}: shorten it, or raise --context-length",
          n_prompt, session_.context_length()));
    }
    request.sampling = {
        .temperature = static_cast<float>(options_.temperature),
        .top_p = static_cast<float>(options_.top_p),
        .top_k = options_.top_k,
        .seed = options_.seed >= 0 ? static_cast<uint64_t>(options_.seed) : draw_seed()};
    const auto stream = codec_.open_stream({}, request.prompt_ids);
    const auto queue = std::make_shared<EventQueue>();
    const auto begin = Clock::now();
    const auto id = session_.core().submit(
        std::move(request), [queue](GenerateEvent&& event) { queue->push(std::move(event)); });
    if (!id) throw EnvironmentError(id.error().message);
    return print_events(*queue, *stream, begin);
  }

 private:
  std::string print_events(EventQueue& queue, TextStream& stream, Clock::time_point begin) {
    std::string text;
    const auto emit = [&](const std::string& piece) {
      text += piece;
      std::fwrite(piece.data(), 1, piece.size(), stdout);
    };
    Clock::time_point first{};
    for (;;) {
      const auto [event, time] = queue.pop();
      if (!event.token_ids.empty() && first == Clock::time_point{}) first = time;
      const bool stopped = event.finish == FinishReason::kStop;
      for (size_t i = 0; i < event.token_ids.size(); ++i) {
        // The end token itself is no text.
        if (stopped && i + 1 == event.token_ids.size()) break;
        emit(stream.push(event.token_ids[i]).text);
      }
      if (event.finish == FinishReason::kNone) continue;
      if (event.finish == FinishReason::kError) throw EnvironmentError(event.error);
      emit(stream.finish());
      report(event, first - begin, time - first);
      return text;
    }
  }

  static void report(const GenerateEvent& end, Clock::duration first, Clock::duration rest) {
    const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
    say(stderr, "\n[{} tokens in, {} out, first after {:.0f} ms, then {:.1f} tokens/s]\n",
        end.n_prompt_tokens, end.n_output_tokens, seconds(first) * 1000,
        rest > Clock::duration::zero() ? (end.n_output_tokens - 1) / seconds(rest) : 0.0);
  }

  Session& session_;
  const TextCodec& codec_;
  const RunOptions& options_;
};

std::vector<int32_t> value_of(Result<std::vector<int32_t>> ids) {
  if (!ids) throw EnvironmentError(ids.error().message);
  if (ids->empty()) throw EnvironmentError("the prompt is empty: give one with -p TEXT");
  return *std::move(ids);
}

// Reads lines and answers them until the end of input, keeping the conversation.
void chat(Runner& runner, const TextCodec& codec, const RunOptions& options) {
  say(stderr, "Type a message; an empty line or Ctrl-D ends.\n");
  Json messages = Json::array();
  if (!options.system.empty()) {
    messages.push_back({{"role", "system"}, {"content", options.system}});
  }
  std::string line;
  while (say(stderr, "\n> "), std::getline(std::cin, line) && !line.empty()) {
    messages.push_back({{"role", "user"}, {"content", line}});
    const std::string text = runner.answer(value_of(codec.encode_chat(messages, {})));
    messages.push_back({{"role", "assistant"}, {"content", text}});
  }
}

}  // namespace

int run_command(const RunOptions& options) {
  if (options.max_tokens < 1) throw EnvironmentError("--max-tokens must be at least 1");
  if (!(options.temperature >= 0 && options.temperature <= 2)) {
    throw EnvironmentError("--temperature must be from 0 to 2");
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw EnvironmentError("--top-p must be above 0 and at most 1");
  }
  if (options.top_k < 0) throw EnvironmentError("--top-k must not be negative");
  ApiSession served(options.cluster);
  Session& session = served.session();
  const TextCodec& codec = served.codec();
  if (!served.model_info(0).has_lm_head) {
    throw EnvironmentError(
        "this model has no lm_head and generates no text: use trireme serve, and ask "
        "/v1/embeddings or /classify");
  }
  if (options.serve_api) served.open();
  session.start();
  session.wait_serving();
  Runner runner(session, codec, options);
  if (!options.has_prompt && isatty(STDIN_FILENO) == 1) {
    say(stderr, "{}", session.banner());
    chat(runner, codec, options);
    return 0;
  }
  std::string prompt = options.prompt;
  if (!options.has_prompt) {
    prompt.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  say(stdout, "{}", prompt);
  runner.answer(value_of(codec.encode(prompt, true)));
  say(stdout, "\n");
  return 0;
}

}  // namespace trireme
