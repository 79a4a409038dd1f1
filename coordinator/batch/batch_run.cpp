#include "coordinator/batch/batch_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <ctime>
#include <utility>
#include <vector>

#include "coordinator/batch/batch_line.h"
#include "coordinator/http/key_fields.h"
#include "coordinator/http/reply_fields.h"
#include "coordinator/http/structure_fields.h"
#include "kernels/check.h"
#include "kernels/result.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxHeldBytes = 64U << 20;  // of lines and answers, one line of any size aside
constexpr auto kRetryAfter = std::chrono::milliseconds(200);
// For what nobody tells: room for more, a retry's time, the end of the batch's.
constexpr auto kPoll = std::chrono::milliseconds(20);

}  // namespace

// What came of lines, from the handler threads to the one of run().
struct BatchRun::Mailbox {
  struct Answer {
    int64_t number = 0;
    int status = 0;
    std::string body;
  };

  void put(Answer answer) {
    const std::lock_guard lock(mutex);
    answers.push_back(std::move(answer));
    changed.notify_one();
  }
  std::vector<Answer> take() {
    const std::lock_guard lock(mutex);
    return std::exchange(answers, {});
  }
  void stop() {
    const std::lock_guard lock(mutex);
    stopped = true;
    changed.notify_one();
  }
  bool is_stopped() {
    const std::lock_guard lock(mutex);
    return stopped;
  }
  void wait() {
    std::unique_lock lock(mutex);
    changed.wait_for(lock, kPoll, [this] { return stopped || !answers.empty(); });
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Answer> answers;
  bool stopped = false;
};

// A line's client, as its generation job knows it.
class BatchRun::LineResponder final : public Responder {
 public:
  LineResponder(std::shared_ptr<Mailbox> mailbox, int64_t number)
      : mailbox_(std::move(mailbox)), number_(number) {}

  void reply(HttpResponse response) override {
    mailbox_->put({number_, response.status, std::move(response.body)});
  }
  void start_stream() override { TRIREME_CHECK_MSG(false, "a line of a batch has no stream"); }
  void write(std::string /*bytes*/) override {}
  void finish() override {}
  void on_disconnect(std::function<void()> handler) override {
    bool gone = false;
    {
      const std::lock_guard lock(mutex_);
      gone = gone_;
      if (!gone) handler_ = handler;
    }
    if (gone) handler();
  }
  void go() {
    std::function<void()> handler;
    {
      const std::lock_guard lock(mutex_);
      gone_ = true;
      handler = std::exchange(handler_, nullptr);
    }
    if (handler) handler();
  }

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  const int64_t number_;
  std::mutex mutex_;
  std::function<void()> handler_;
  bool gone_ = false;
};

BatchRun::BatchRun(std::shared_ptr<ApiContext> context, BatchRunOptions options)
    : context_(std::move(context)),
      options_(std::move(options)),
      lines_(options_.input, kMaxBatchLineBytes),
      output_(options_.output, options_.key),
      mailbox_(std::make_shared<Mailbox>()) {
  for (LineReader::Line line; n_read_ < output_.n_lines(); ++n_read_) {
    if (lines_.next(&line)) continue;
    throw ForeignOutput(fmt::format("{} has {} answers, and {} only {} lines: move it away",
                                    options_.output.string(), output_.n_lines(),
                                    options_.input.string(), n_read_));
  }
  written_offset_ = lines_.offset();
}

BatchRun::~BatchRun() { cancel_all(); }

void BatchRun::stop() { mailbox_->stop(); }

BatchProgress BatchRun::progress() const {
  return {.n_done = output_.n_lines(),
          .n_failed = output_.n_failed(),
          .done_bytes = written_offset_,
          .total_bytes = lines_.size_bytes()};
}

BatchRun::End BatchRun::run() {
  for (;;) {
    if (mailbox_->is_stopped()) return End::kStopped;
    if (options_.expires != 0 && std::time(nullptr) >= options_.expires) {
      if (!expire()) return End::kStopped;
      output_.sync();
      return End::kExpired;
    }
    bool busy = read_ahead();
    busy |= start_lines();
    busy |= take_answers();
    busy |= write_answers();
    if (held_.empty() && at_end_) break;
    if (busy) continue;
    const ServiceStatus status = context_->status();
    if (!status.alive && !status.draining) return End::kUnavailable;
    mailbox_->wait();
  }
  output_.sync();
  return End::kDone;
}

std::string BatchRun::name(const Held& held) const {
  return options_.key.name(kBatchLinePrefix, held.number);
}

// True: there may be more.
bool BatchRun::read_ahead() {
  bool any = false;
  while (!at_end_ && static_cast<int32_t>(held_.size()) < options_.max_lines &&
         (held_.empty() || held_bytes_ < kMaxHeldBytes)) {
    LineReader::Line line;
    if (!lines_.next(&line)) {
      at_end_ = true;
      break;
    }
    any = true;
    Held held;
    held.number = n_read_++;
    held.too_long = line.too_long;
    held.end_offset = lines_.offset();
    if (!line.too_long) held.text = std::move(line.text);
    held_bytes_ += held.bytes();
    held_.push_back(std::move(held));
  }
  return any;
}

// The first ones first, as many as there is room for: the last to fit may have several sequences.
bool BatchRun::start_lines() {
  const SleepPhase sleep = context_->status().sleep;
  if (sleep == SleepPhase::kSettling || sleep == SleepPhase::kAsleep) return false;
  const auto now = Clock::now();
  bool any = false;
  int32_t allowed = options_.allowance(n_computing_);
  for (Held& held : held_) {
    if (n_computing_ >= allowed) break;
    if (held.n_sequences > 0 || !held.answer.empty() || held.not_before > now) continue;
    start(held);
    any = true;
    allowed = options_.allowance(n_computing_);
  }
  return any;
}

void BatchRun::start(Held& held) {
  const auto refuse = [&](const ApiError& error) {
    finish(held, error.status, api_error_body(error));
  };
  if (held.too_long) {
    return refuse({.status = 413,
                   .message = fmt::format("the line is longer than {} bytes", kMaxBatchLineBytes),
                   .param = "",
                   .code = "body_too_large"});
  }
  BatchLine line = read_batch_line(held.text, options_.endpoint);
  held.custom_id = std::move(line.custom_id);
  if (const auto* error = std::get_if<ApiError>(&line.call)) return refuse(*error);
  auto& call = std::get<BatchCall>(line.call);
  const auto seed = call.body.find("seed");
  if (seed == call.body.end() || seed->is_null())
    call.body["seed"] = options_.key.seed(held.number);
  ParsedCall parsed = call.kind->parse(call.body, context_->model, context_->codec);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return refuse(*error);
  auto& generation = std::get<GenerationCall>(parsed);
  const auto* guides = context_->guides.get();
  if (auto error = check_grammar(guides, generation, context_->model.vocab_size))
    return refuse(*error);
  give_to_key(&generation.tenant, &generation.cache_salt, options_.key_name);
  generation.tell_cached = false;      // the same bytes, whatever ran before
  generation.priority = kMaxPriority;  // after whoever waits for an answer
  held.n_sequences = generation.n_choices();
  held.responder = std::make_shared<LineResponder>(mailbox_, held.number);
  n_computing_ += held.n_sequences;
  make_job(context_,
           {.endpoint = call.kind->path,
            .id = options_.key.name(call.kind->id_prefix, held.number),
            .created = options_.created},
           std::move(generation), context_->service.weights(), held.responder, std::nullopt)
      ->start();
}

bool BatchRun::take_answers() {
  const std::vector<Mailbox::Answer> answers = mailbox_->take();
  for (const Mailbox::Answer& answer : answers) {
    Held& held = held_.at(static_cast<size_t>(answer.number - held_.front().number));
    TRIREME_CHECK(held.number == answer.number && held.n_sequences > 0);
    n_computing_ -= std::exchange(held.n_sequences, 0);
    held.responder.reset();
    take_answer(held, answer.status, answer.body);
  }
  return !answers.empty();
}

// A refusal that says "now" is no answer: the same line gets one later. But where nothing else is
// computed, there will never be more room.
void BatchRun::take_answer(Held& held, int status, const std::string& body) {
  const ServiceStatus service = context_->status();
  const bool idle = service.n_running + service.n_waiting == 0 && n_computing_ == 0;
  const bool hopeless = service.draining || !service.alive;
  if (status == 503 || (status == 429 && !idle) || (status >= 500 && hopeless)) {
    held.not_before = Clock::now() + kRetryAfter;
    return;
  }
  finish(held, status, body);
}

void BatchRun::finish(Held& held, int status, const std::string& body) {
  held_bytes_ -= held.bytes();
  held.answer = batch_answer_line(name(held), held.custom_id, status, body);
  held.text = std::string();
  held_bytes_ += held.bytes();
}

// Those at the front: the others wait for them.
bool BatchRun::write_answers() {
  std::string lines;
  while (!held_.empty() && !held_.front().answer.empty()) {
    lines += held_.front().answer;
    written_offset_ = held_.front().end_offset;
    held_bytes_ -= held_.front().bytes();
    held_.pop_front();
  }
  if (lines.empty()) return false;
  output_.append(lines);
  if (options_.on_progress) options_.on_progress(progress());
  return true;
}

// False: stopped meanwhile. The rest of a long file takes a while.
bool BatchRun::expire() {
  cancel_all();
  for (bool more = true; more; more = read_ahead()) {
    if (mailbox_->is_stopped()) return false;
    for (Held& held : held_) {
      if (!held.answer.empty()) continue;
      if (!held.too_long && held.custom_id == "null")
        held.custom_id = read_batch_line(held.text, options_.endpoint).custom_id;
      held_bytes_ -= held.bytes();
      held.answer = batch_failure_line(
          name(held), held.custom_id, "batch_expired",
          "This request could not be executed before the completion window expired.");
      held.text = std::string();
      held_bytes_ += held.bytes();
    }
    write_answers();
  }
  return true;
}

void BatchRun::cancel_all() {
  for (Held& held : held_) {
    if (held.responder) std::exchange(held.responder, nullptr)->go();
    held.n_sequences = 0;
  }
  n_computing_ = 0;
  mailbox_->take();
}

}  // namespace trireme
