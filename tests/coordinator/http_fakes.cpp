#include "tests/coordinator/http_fakes.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "coordinator/text/stop_checker.h"

namespace trireme {
namespace {

constexpr auto kWait = std::chrono::seconds(20);

// Holds back the bytes of an unfinished character, as a detokenizer does.
class ByteStream final : public TextStream {
 public:
  explicit ByteStream(const TextStreamOptions& options)
      : checker_(options.stop), options_(options) {}

  Piece push(int32_t token_id) override {
    if (token_id == kFakeEos) {
      return options_.skip_special_tokens ? Piece{} : check("<eos>");
    }
    bytes_.push_back(static_cast<char>(token_id));
    const auto first = static_cast<unsigned char>(bytes_.front());
    const size_t size = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    return bytes_.size() < size ? Piece{} : check(std::exchange(bytes_, {}));
  }

  std::string finish() override { return stopped_ ? "" : checker_.flush(); }

 private:
  Piece check(const std::string& text) {
    StopChecker::Output output = checker_.feed(text);
    stopped_ = output.stop.has_value();
    if (stopped_ && options_.include_stop_string) output.text += *output.stop;
    return {.text = output.text, .stopped = stopped_};
  }

  StopChecker checker_;
  const TextStreamOptions options_;
  std::string bytes_;
  bool stopped_ = false;
};

}  // namespace

Result<std::vector<int32_t>> ByteCodec::encode(std::string_view text, bool) const {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

Result<std::vector<int32_t>> ByteCodec::encode_chat(const nlohmann::ordered_json& messages,
                                                    const ChatPromptOptions& options) const {
  std::string text;
  for (const auto& message : messages) {
    const auto role = message["role"].get<std::string>();
    if (role == "bad") return Error{"the template does not know the role bad", ""};
    text += "<" + role + ">" + message["content"].get<std::string>();
    if (message.contains("tool_calls")) text += message["tool_calls"].dump();
  }
  if (options.tools != nullptr)
    text = "<" + std::to_string(options.tools->size()) + " tools>" + text;
  if (options.add_generation_prompt) text += "<assistant>";
  return encode(text, false);
}

std::string ByteCodec::decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id != kFakeEos) {
      text.push_back(static_cast<char>(id));
    } else if (!skip_special_tokens) {
      text += "<eos>";
    }
  }
  return text;
}

std::unique_ptr<TextStream> ByteCodec::open_stream(const TextStreamOptions& options,
                                                   const std::vector<int32_t>&) const {
  return std::make_unique<ByteStream>(options);
}

FakeService::FakeService() {
  status_.ready = true;
  status_.context_length = 256;
  status_.vocab_size = kFakeVocab;
  status_.n_kv_blocks = 64;
  thread_ = std::thread([this] { run(); });
}

FakeService::~FakeService() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Result<RequestId> FakeService::submit(GenerateRequest request, EventHandler on_event) {
  std::lock_guard lock(mutex_);
  if (refusal_) return *refusal_;
  if (running_.size() >= capacity_) return Error{"the queue is full", "queue"};
  requests_.push_back(request);
  const auto n_drawn = static_cast<int32_t>(request.output_ids.size());
  running_[++last_id_] = Running{std::move(request), std::move(on_event), n_drawn};
  most_at_once_ = std::max(most_at_once_, running_.size());
  changed_.notify_all();
  return last_id_;
}

size_t FakeService::most_at_once() const {
  std::lock_guard lock(mutex_);
  return most_at_once_;
}

FinishReason FakeService::last_cancel() const {
  std::lock_guard lock(mutex_);
  return last_cancel_;
}

void FakeService::cancel(RequestId id, FinishReason counted_as) {
  std::lock_guard lock(mutex_);
  last_cancel_ = counted_as;
  n_cancels_ += running_.erase(id);
  changed_.notify_all();
}

ServiceStatus FakeService::status() const {
  std::lock_guard lock(mutex_);
  ServiceStatus status = status_;
  status.n_running = static_cast<int>(running_.size());
  return status;
}

void FakeService::set_script(std::string script) {
  std::lock_guard lock(mutex_);
  script_ = std::move(script);
}

void FakeService::set_mode(Mode mode) {
  std::lock_guard lock(mutex_);
  mode_ = mode;
  changed_.notify_all();
}

void FakeService::set_status(ServiceStatus status) {
  std::lock_guard lock(mutex_);
  status_ = std::move(status);
}

void FakeService::set_refusal(std::optional<Error> refusal) {
  std::lock_guard lock(mutex_);
  refusal_ = std::move(refusal);
}

void FakeService::set_capacity(size_t capacity) {
  std::lock_guard lock(mutex_);
  capacity_ = capacity;
}

void FakeService::set_hidden_size(int32_t hidden_size) {
  std::lock_guard lock(mutex_);
  hidden_size_ = hidden_size;
}

std::vector<GenerateRequest> FakeService::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

bool FakeService::wait_for_requests(size_t n) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kWait, [&] { return requests_.size() >= n; });
}

bool FakeService::wait_for_cancels(size_t n) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kWait, [&] { return n_cancels_ >= n; });
}

// Nothing when there is nothing to say in this mode.
std::optional<GenerateEvent> FakeService::next_event(Running& running) const {
  if (mode_ == Mode::kSilent) return std::nullopt;
  GenerateEvent event;
  event.n_prompt_tokens = static_cast<int32_t>(running.request.prompt_ids.size());
  event.n_cached_tokens = running.request.choice == 0 ? event.n_prompt_tokens - 1 : 100;
  if (running.request.want_embedding && mode_ != Mode::kBreak) {
    event.embedding.resize(static_cast<size_t>(hidden_size_));
    for (const int32_t id : running.request.prompt_ids)
      event.embedding[static_cast<size_t>(id % hidden_size_)] += 1.0F;
    event.finish = FinishReason::kStop;
    return event;
  }
  if (running.n_output == 0 && running.request.want_prompt_logprobs) {
    const size_t n = running.request.prompt_ids.size() - 1;
    event.prompt_logprobs.assign(n, -0.25F);
    if (running.request.n_prompt_logprobs > 0) {
      std::vector<TokenLogprob> top;
      for (int32_t i = 0; i < running.request.n_prompt_logprobs; ++i)
        top.push_back({.token_id = 'a' + i, .logprob = -0.125F * static_cast<float>(i + 1)});
      event.prompt_top_logprobs.assign(n, top);
    }
  }
  if (mode_ == Mode::kBreak && (running.n_output == 2 || running.request.want_embedding)) {
    event.finish = FinishReason::kError;
    event.error = "the group fell over";
    return event;
  }
  if (mode_ == Mode::kEndless) {
    event.token_ids.assign(script_.begin(), script_.end());
    event.logprobs.assign(script_.size(), -0.5F);
    return event;
  }
  const size_t position = running.request.choice + static_cast<size_t>(running.n_output);
  if (running.request.max_new_tokens > 0) {
    const bool at_end = position >= script_.size();
    const int32_t token = at_end ? kFakeEos : static_cast<unsigned char>(script_[position]);
    event.token_ids.push_back(token);
    event.logprobs.push_back(-0.5F);
    std::vector<TokenLogprob> top;
    for (int32_t i = 0; i < running.request.n_logprobs; ++i) {
      top.push_back({.token_id = (token + i) % 128, .logprob = -0.5F - static_cast<float>(i)});
    }
    event.top_logprobs.push_back(std::move(top));
    ++running.n_output;
    if (at_end) event.finish = FinishReason::kStop;
    for (const int32_t stop : running.request.stop_token_ids) {
      if (token == stop) event.finish = FinishReason::kStop;
    }
  }
  if (event.finish == FinishReason::kNone && running.n_output >= running.request.max_new_tokens) {
    event.finish = FinishReason::kLength;
  }
  event.n_output_tokens = running.n_output;
  return event;
}

std::shared_ptr<const ServedWeights> FakeService::weights() const {
  const std::lock_guard lock(mutex_);
  return weights_;
}

void FakeService::set_weights(ServedWeights weights) {
  const std::lock_guard lock(mutex_);
  weights_ = std::make_shared<ServedWeights>(std::move(weights));
}

void FakeService::sleep(SleepMode mode, SleepHandler on_end) {
  std::unique_lock lock(mutex_);
  sleep_mode_ = mode;
  if (sleep_failure_.empty()) {
    status_.sleep = SleepPhase::kAsleep;
    status_.ready = false;
    status_.problem = "the server sleeps";
  }
  const std::string failure = sleep_failure_;
  lock.unlock();
  on_end(failure);
}

void FakeService::wake_up(SleepHandler on_end) {
  std::unique_lock lock(mutex_);
  if (sleep_failure_.empty()) {
    status_.sleep = SleepPhase::kAwake;
    status_.ready = true;
  }
  const std::string failure = sleep_failure_;
  lock.unlock();
  on_end(failure);
}

void FakeService::set_sleep_failure(std::string failure) {
  const std::lock_guard lock(mutex_);
  sleep_failure_ = std::move(failure);
}

SleepMode FakeService::sleep_mode() const {
  const std::lock_guard lock(mutex_);
  return sleep_mode_;
}

void FakeService::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    std::vector<std::pair<EventHandler, GenerateEvent>> events;
    for (auto it = running_.begin(); it != running_.end();) {
      std::optional<GenerateEvent> event = next_event(it->second);
      const bool ended = event && event->finish != FinishReason::kNone;
      if (event) events.emplace_back(it->second.on_event, std::move(*event));
      it = ended ? running_.erase(it) : std::next(it);
    }
    if (events.empty()) {
      changed_.wait(lock);
      continue;
    }
    lock.unlock();
    for (auto& [handler, event] : events) handler(std::move(event));
    events.clear();
    lock.lock();
    // Endless talk at full speed would only measure this machine.
    if (mode_ == Mode::kEndless) changed_.wait_for(lock, std::chrono::milliseconds(1));
  }
}

ModelInfo fake_model() {
  return {.id = "fake",
          .created = 7,
          .context_length = 256,
          .vocab_size = kFakeVocab,
          .tool_format = ToolFormat::kHermes,
          .has_reasoning = true,
          .hidden_size = kFakeHidden};
}

TestServer::TestServer(const HttpLimits& limits, Journal* journal, int32_t journal_grace_s,
                       HttpAccess access, BatchStore* batches, ModelInfo model)
    : metrics({.model_name = "fake", .version = "test"}),
      server(service, codec, std::move(model), metrics,
             {.host = "127.0.0.1",
              .port = 0,
              .n_handler_threads = 2,
              .limits = limits,
              .access = std::move(access),
              .journal = journal,
              .journal_grace_s = journal_grace_s,
              .batches = batches,
              .n_slots = 8,
              .sleep_mode = true}) {
  server.start();
}

}  // namespace trireme
