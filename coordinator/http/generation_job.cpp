#include "coordinator/http/generation_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "coordinator/http/structure_fields.h"
#include "kernels/check.h"

namespace trireme {

bool is_failure(const GenerateEvent& event) {
  return event.finish == FinishReason::kError || event.finish == FinishReason::kCancelled;
}

ApiError failure_of(const GenerateEvent& event) {
  if (event.finish == FinishReason::kError) {
    return {.status = 500,
            .message = "generation failed: " + event.error,
            .param = "",
            .code = "generation_failed"};
  }
  return {.status = 503,
          .message = "the server ended this request: " + event.error,
          .param = "",
          .code = "cancelled",
          .retry_after_seconds = 5};
}

GenerationJob::GenerationJob(GenerationCall call, Parts parts)
    : call_(std::move(call)),
      parts_(std::move(parts)),
      choices_(call_.n_choices()),
      searches_(call_.beam_search ? call_.prompts.size() : 0) {
  TRIREME_CHECK(!choices_.empty());
  n_open_ = static_cast<int>(choices_.size());
}

void GenerationJob::start() {
  post([this] { submit_all(); });
}

// ---- one task at a time ----

void GenerationJob::post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    if (scheduled_) return;
    scheduled_ = true;
  }
  parts_.pool->post([self = shared_from_this()] { self->run_tasks(); });
}

void GenerationJob::run_tasks() {
  for (;;) {
    std::vector<std::function<void()>> tasks;
    {
      std::lock_guard lock(mutex_);
      if (tasks_.empty()) {
        scheduled_ = false;
        return;
      }
      tasks.swap(tasks_);
    }
    for (const auto& task : tasks) task();
    flush();
  }
}

// ---- submission ----

GenerateRequest GenerationJob::make_request(int index) const {
  GenerateRequest request;
  request.prompt_ids = call_.prompts[index / call_.n].ids;
  request.sampling = call_.sampling;
  request.max_new_tokens = call_.max_new_tokens;
  request.stop_token_ids = call_.stop_token_ids;
  request.ignore_eos = call_.ignore_eos;
  request.choice = static_cast<uint32_t>(index % call_.n);
  request.want_prompt_logprobs = call_.wants_prompt_logprobs();
  request.n_prompt_logprobs =
      std::max({0, call_.n_prompt_logprobs, call_.echo ? call_.n_logprobs : 0});
  request.priority = call_.priority;
  request.tenant = call_.tenant;
  request.n_logprobs = std::max(call_.n_logprobs, 0);
  request.cache_salt = call_.cache_salt;
  request.rules = call_.rules;
  request.grammar = call_.grammar;
  if (!parts_.kept) return request;
  const ChoiceLog& log = parts_.kept->entry->log(index);
  request.output_ids = log.token_ids;
  request.numerics_id = log.numerics_id;
  request.want_prompt_logprobs &= log.empty();
  return request;
}

void GenerationJob::submit_all() {
  begin_writing({});
  listen_to_client();
  if (parts_.kept) keep();
  if (call_.beam_search) return start_searches();
  // From then on the choices hold them, as long as they are drawn.
  const auto weights = std::exchange(parts_.weights, nullptr);
  for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
    if (!choices_[i].done && !submit(i, weights)) return;
  }
}

// False: it was refused, and the whole request failed.
bool GenerationJob::submit(int index, const std::shared_ptr<const ServedWeights>& weights) {
  GenerateRequest request = make_request(index);
  request.weights = weights;
  const Result<RequestId> id = parts_.service.submit(std::move(request), handler(index));
  if (id) {
    choices_[index].request_id = *id;
    return true;
  }
  for (size_t k = static_cast<size_t>(index); k < choices_.size(); ++k) choices_[k].done = true;
  fail(parts_.refusal(id.error()));
  return false;
}

InferenceService::EventHandler GenerationJob::handler(int index) {
  return [self = shared_from_this(), index](GenerateEvent&& event) {
    self->post([job = self.get(), index, event = std::move(event)]() mutable {
      job->on_event(index, std::move(event));
    });
  };
}

void GenerationJob::listen_to_client() {
  if (parts_.responder == nullptr) return;
  parts_.responder->on_disconnect([weak = weak_from_this(), client = ++client_] {
    const auto self = weak.lock();
    if (!self) return;
    if (!self->parts_.kept) self->abandoned_ = true;
    self->post([job = self.get(), client] { job->client_went(client); });
  });
}

void GenerationJob::client_went(int client) {
  if (client != client_ || ended_) return;
  if (!parts_.kept) return cancel_all();
  if (!told_any_) return give_up_now();  // it cannot come back: it knows no id
  parts_.responder.reset();
  writer_->mute();
  parts_.kept->keeper->begin_grace(parts_.kept->entry->request().id);
}

// What a choice got so far.
const ChoiceLog& GenerationJob::log(int index) const {
  return parts_.kept ? parts_.kept->entry->log(index) : choices_[index].log;
}

// ---- events ----

void GenerationJob::on_event(int index, GenerateEvent event) {
  Choice& choice = choices_[index];
  if (choice.done || ended_ || abandoned_) return;
  choice.done = is_failure(event);  // the service knows it no more
  if (failed(event)) return;
  if (parts_.kept) {
    parts_.kept->keeper->journal().append(parts_.kept->entry, index, event);
  } else {
    append_event(choice.log, event, call_.uses_logprobs());
  }
  if (choice.told) write(index, event);
}

// Ends the answer with an error if the event is one.
bool GenerationJob::failed(const GenerateEvent& event) {
  if (event.finish == FinishReason::kError && event.own_fault) {
    fail(grammar_refusal(call_, event.error));
  } else if (is_failure(event)) {
    fail(failure_of(event));
  }
  return is_failure(event);
}

void GenerationJob::write(int index, const GenerateEvent& event) {
  const AnswerWriter::Added added = writer_->add(index, event);
  if (!added.ended) return;
  if (added.by_stop_string && choices_[index].request_id != 0)
    parts_.service.cancel(choices_[index].request_id, FinishReason::kStop);
  choices_[index].done = true;
  if (--n_open_ == 0) finish_answer();
}

// ---- the answer ----

AnswerWriter GenerationJob::make_writer(AnswerWriter::Options options) const {
  return {call_, parts_.codec, parts_.make_format(), std::move(options)};
}

void GenerationJob::begin_writing(const StreamPosition& from) {
  auto form = AnswerWriter::Form::kSilent;
  if (parts_.responder != nullptr) {
    form = call_.stream ? AnswerWriter::Form::kStream : AnswerWriter::Form::kWhole;
  }
  writer_ = std::make_unique<AnswerWriter>(
      make_writer({.form = form, .with_ids = parts_.kept.has_value(), .from = from}));
}

void GenerationJob::finish_answer() {
  ended_ = true;
  parts_.key_lease.reset();  // first: the client may send its next request when it has the end
  if (parts_.kept) end_kept({});
  if (parts_.responder == nullptr) return;
  if (call_.stream) {
    writer_->finish();
    flush();
    return parts_.responder->finish();
  }
  parts_.responder->reply(writer_->whole());
}

void GenerationJob::fail(const ApiError& error) {
  flush();  // what came before it has begun a stream
  cancel_all();
  if (parts_.kept) end_kept({.status = error.status, .error = api_error_body(error)});
  if (parts_.responder == nullptr) return;
  if (!streaming_) return parts_.responder->reply(error_response_at(parts_.name.endpoint, error));
  writer_->fail(api_error_body(error));
  flush();
  parts_.responder->finish();
}

void GenerationJob::cancel_all() {
  ended_ = true;
  parts_.key_lease.reset();
  cancel_searches();
  for (Choice& choice : choices_) {
    if (!choice.done && choice.request_id != 0)
      parts_.service.cancel(choice.request_id, FinishReason::kCancelled);
    choice.done = true;
  }
}

void GenerationJob::flush() {
  if (writer_ == nullptr || parts_.responder == nullptr) return;
  std::string bytes = writer_->take();
  if (bytes.empty()) return;
  if (!std::exchange(streaming_, true)) parts_.responder->start_stream();
  parts_.responder->write(std::move(bytes));
}

}  // namespace trireme
